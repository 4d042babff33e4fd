"""The daemon with its real child: it follows a channel, small and unhurt.

The distillations are real, on digits, with a recipe of a few epochs.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from edge_site import EdgeSite, current_student, edge_site, node_environment, recipe
from PIL import Image
from waiting import WAIT_S, until

from common.config import DatasetConfig, ProfileConfig
from common.data.datasets import load_dataset
from common.errors import CapError, Interrupted, LinkError, TaktError
from common.pb.takt_pb2 import ReportRequest
from common.records import Evaluation
from edge.config import EdgeConfig, save_edge_config
from edge.daemon import NodeDaemon
from edge.jobs.job import CHECKPOINT, PROGRESS, RESULT, DistilResult, read_progress
from edge.state import Status, read_status, sha256_of

DAEMON = """
import sys
from pathlib import Path
from edge.config import load_edge_config
from edge.daemon import run_daemon
code = run_daemon(load_edge_config(Path(sys.argv[1])), once=False)
print(sorted({"torch", "ray"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def status_of(config: EdgeConfig) -> Status:
    if not (config.state_dir / "status.json").exists():
        return Status(node=config.node)
    return read_status(config.state_dir)


def reports_of(site: EdgeSite, node: str) -> list[ReportRequest]:
    assert site.gateway is not None
    rows = site.gateway.running.fleet.reports(node=node)
    return [row.report for row in rows]


@dataclass
class Followed:
    """What was seen of a daemon that followed two releases and was stopped."""

    config: EdgeConfig
    seen: list[Status]
    own_mib: float  # what it shares with no other process
    code: int
    output: str
    errors: str


@pytest.fixture(scope="module")
def followed(site: EdgeSite) -> Followed:
    """Start `run` before there is a release, publish two, stop it."""
    config = site.join("hub", stall_s=WAIT_S)
    path = config.state_dir / "edge.toml"
    save_edge_config(config, path)
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **node_environment(config.state_dir / "absent"),
            "OMP_NUM_THREADS": "1",
            "GRPC_VERBOSITY": "NONE",
        },
    )
    seen: list[Status] = []
    published: list[int] = []

    def has_handled() -> bool:
        assert process.poll() is None, "the daemon ended by itself"
        status = status_of(config)
        if not seen or (status.state, status.epoch) != (seen[-1].state, seen[-1].epoch):
            seen.append(status)
        return status.state == "idle" and status.version == len(published)

    try:
        until("its words", lambda: "first release" in status_of(config).message)
        for _ in range(2):
            manifest = site.publish_digits(students={"tiny": recipe(epochs=10)})
            published.append(manifest.version)
            until("the release", has_handled)
        own_mib = psutil.Process(process.pid).memory_full_info().uss / 2**20
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=WAIT_S)  # less than poll_s
    finally:
        process.kill()
        process.wait()
    return Followed(config, seen, own_mib, process.returncode, output, errors)


def test_the_daemon_never_imports_torch_or_ray(followed: Followed) -> None:
    assert followed.output == "[]\n"


def test_the_daemon_stays_under_100_mib(followed: Followed) -> None:
    assert followed.own_mib < 100


def test_a_stopped_daemon_exits_cleanly(followed: Followed) -> None:
    assert followed.code == 0, followed.errors
    assert read_status(followed.config.state_dir).state == "stopped"


def test_the_first_student_is_promoted_and_whole(followed: Followed) -> None:
    student = current_student(followed.config.state_dir)
    assert student is not None
    outcome = json.loads((student.parent / RESULT).read_text())
    assert outcome["weights_sha256"] == sha256_of(student)


def test_a_release_published_while_it_runs_is_distilled_unasked(
    site: EdgeSite, followed: Followed
) -> None:
    first, second = reports_of(site, "hub")
    assert first.outcome == "promoted"
    assert (second.version, second.outcome in {"promoted", "kept"}) == (2, True)


def test_the_states_are_gone_through_in_order(followed: Followed) -> None:
    states = [status.state for status in followed.seen if status.version == 1]
    order = ["pulling", "verifying", "distilling", "evaluating", "promoting", "idle"]
    assert [s for s in order if s in states] == sorted(set(states), key=order.index)
    assert {"distilling", "idle"} <= set(states)
    assert "backing-off" not in states


def test_the_report_says_what_a_result_needs(
    site: EdgeSite, followed: Followed
) -> None:
    report = reports_of(site, "hub")[0]
    assert report.architecture == "cnn_tiny"
    assert report.cap.method and report.peak_memory_mib > 50
    assert report.cpu_s.distil > report.cpu_s.attack > 0
    assert report.HasField("clean_accuracy")
    (robust,) = report.robust
    evaluation = Evaluation(
        attack=robust.attack,
        version=robust.version,
        norm=robust.norm,
        eps=robust.eps,
        num_images=robust.num_images,
        accuracy=robust.accuracy,
        seed=robust.seed,
    )
    assert evaluation.num_images > 100
    assert len(report.curve) == 10
    assert 0 < report.pulled_bytes < 200_000


def test_nothing_is_written_to_stderr_by_a_quiet_daemon(followed: Followed) -> None:
    assert followed.errors == ""


def test_a_distillation_survives_a_stop_and_a_killed_child(site: EdgeSite) -> None:
    config = site.join("camera")
    version = site.publish_digits(students={"tiny": recipe(epochs=120)}).version
    work = config.state_dir / "work" / str(version)
    with ThreadPoolExecutor(1) as pool:
        daemon = NodeDaemon(config)
        stopped = pool.submit(daemon.once)
        until("a checkpoint", (work / CHECKPOINT).exists)
        daemon.stop()
        with pytest.raises(Interrupted):
            stopped.result(timeout=WAIT_S)
        first_epoch = read_progress(work / PROGRESS)[0]
        saved = (work / CHECKPOINT).stat().st_mtime_ns

        resumed = pool.submit(NodeDaemon(config).once)
        until("the next one", lambda: (work / CHECKPOINT).stat().st_mtime_ns > saved)
        kill_child_of(work)
        assert resumed.result(timeout=WAIT_S).outcome == "promoted"
    result = DistilResult.model_validate_json((work / RESULT).read_bytes())
    # The first of three children trained it; its CPU time is measured, so unique.
    assert result.curve[0] == first_epoch
    epochs = [point.epoch for point in result.curve]
    assert epochs == list(range(1, len(epochs) + 1))


def kill_child_of(work: Path) -> None:
    job = str(work / "job.json")
    for process in psutil.process_iter(["cmdline"]):
        if job in (process.info["cmdline"] or []):
            process.kill()
            return
    raise AssertionError("there is no child to kill")


def test_over_the_memory_cap_the_batch_is_halved_once(
    site: EdgeSite, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for label in range(2):
        folder = tmp_path / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(300):
            pixels = (rng.random((128, 128)) * 100 + 100 * label).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    train = load_dataset(
        DatasetConfig(name="folder", data_dir=tmp_path, image_size=128), seed=0
    ).train
    huge = recipe(model="cnn_medium", method="natural", epochs=1, batch_size=432)
    site.publish_plain(
        dataset="folder",
        num_samples=len(train),
        sample_shape=(1, 128, 128),
        image_size=128,
        fingerprint=train.fingerprint(),
        class_names=("class0", "class1"),
        students={"tiny": huge},
    )
    profile = ProfileConfig(cpus=1, memory_mib=800, bandwidth_kib_s=10_000)
    config = site.join("sensor", profile=profile, data_dir=tmp_path)
    with contextlib.suppress(TaktError):  # what becomes of it is not the point
        NodeDaemon(config).once()
    (report,) = reports_of(site, "sensor")
    assert report.message.startswith("OOM-capped: batch halved from 432 to 216")
    # A watchdog sees what was touched within one sample, then ends it.
    assert report.peak_memory_mib <= (800 if report.cap.hard else 1.15 * 800)


def test_a_cap_that_is_too_small_is_refused_at_the_start(site: EdgeSite) -> None:
    profile = ProfileConfig(cpus=1, memory_mib=60, bandwidth_kib_s=10_000)
    config = site.join("dwarf", profile=profile)
    with pytest.raises(CapError, match=r"60 MiB.*\d{3} MiB"):
        NodeDaemon(config).once()
    assert not list((config.state_dir / "cache").iterdir())


def test_once_without_a_release_says_so(site: EdgeSite) -> None:
    config = site.join("early", channel="empty")
    with pytest.raises(LinkError, match="channel 'empty' has no release yet"):
        NodeDaemon(config).once()
