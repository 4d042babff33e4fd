"""What a simulation is made of: folders, phases, children, their last log lines."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import WAIT_S

from common.errors import DataError
from deploy.report.result import read_result
from deploy.runtime.processes import end_trees
from deploy.runtime.progress import Display
from deploy.runtime.settings import load_run_config
from deploy.simulation.lifecycle import record_of, run_in_folder
from deploy.simulation.live_view import take_snapshot
from deploy.simulation.nodes import SimulatedNodes
from deploy.simulation.phases import Phases
from deploy.simulation.run_folder import create_run
from deploy.simulation.run_state import RunState


def test_two_runs_of_one_second_get_different_folders(tmp_path: Path) -> None:
    runs = [create_run(tmp_path, "digits", "") for _ in range(3)]
    assert len({run.run_id for run in runs}) == 3
    assert all(run.run_id.startswith("digits-") for run in runs)


def test_a_child_that_ignores_sigterm_is_ended_with_its_own_children() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = 'import time; time.sleep(60)'\n"
            "subprocess.Popen([sys.executable, '-c', child], start_new_session=True)\n"
            "print('ready', flush=True)\n"
            "time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    (child,) = psutil.Process(process.pid).children(recursive=True)
    end_trees([process], grace_s=0.2)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    psutil.wait_procs([child], timeout=WAIT_S)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_phases_add_up_and_a_failing_one_is_timed() -> None:
    now = iter(range(100))

    class _Silent:
        def phase_started(self, name: str, purpose: str) -> None: ...

        def phase_ended(
            self, name: str, seconds: float, summary: str, ok: bool
        ) -> None:
            ended.append((name, ok))

    ended: list[tuple[str, bool]] = []
    phases = Phases(_Silent(), lambda: float(next(now)))
    with phases.phase("one", ""):
        pass
    with pytest.raises(ValueError, match="no"), phases.phase("two", ""):
        raise ValueError("no")
    assert ended == [("one", True), ("two", False)]
    assert phases.timings() == {"one": 1.0, "two": 1.0, "total": 5.0}


def test_before_a_node_starts_its_log_has_the_last_words(tmp_path: Path) -> None:
    config, text = load_run_config("digits-same")
    run = create_run(tmp_path, "digits", text)
    nodes = SimulatedNodes(config.nodes, folder=run.nodes, logs=run.logs)
    state = RunState(config, run, nodes=nodes)
    assert take_snapshot(state).nodes == ()
    run.log("sensor").write_text("takt: first\ntakt: cap too small\n")
    assert nodes.last_log_line("sensor") == "takt: cap too small"
    result = record_of(state)
    assert [node.state for node in result.nodes] == ["not started"] * 3


def test_a_run_that_ends_at_a_file_whose_name_is_not_utf8_leaves_page_and_record(
    tmp_path: Path,
) -> None:
    name = os.fsdecode(b"caf\xe9.png")

    def fail(state: RunState, display: Display) -> None:
        raise DataError(f"cannot read image {name}")

    config, text = load_run_config("digits-same")
    with pytest.raises(DataError):
        run_in_folder(config, text, fail, runs_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert r"caf\udce9.png" in (folder / "report.html").read_text()
    error = read_result(folder).error
    assert error is not None and r"caf\udce9.png" in error.message
