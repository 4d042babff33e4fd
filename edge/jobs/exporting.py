"""Runs one export: a promoted student becomes ONNX files, in a capped child process.

The daemon is free of torch, so a child does it (``python -m edge.distill.export``),
under the caps of a distillation. Not here: when (edge.daemon), the child's work
(edge.distill.export).
"""

import os
import threading
from pathlib import Path

from pydantic import Field

from common.config import DatasetConfig, OwnImagesConfig
from common.durable import locked, storing, write_atomic
from common.errors import OUT_OF_MEMORY, CapError, Interrupted
from common.export.card import Format
from common.interpreter import python
from edge.config import EdgeConfig
from edge.jobs.job import Message
from edge.jobs.runner import error_of_child, last_line, own_error, wait_for
from edge.limits import child_environment, num_threads, open_executor
from edge.state import Promoted, StateDir

_JOB, _LINES, _LOG = "export.json", "export.out", "export.log"
_LOCK = "export.lock"


class ExportJob(Message):
    """One promoted student to be written as ONNX."""

    state_dir: Path
    promoted: Promoted
    dataset: DatasetConfig  # the node's own: only name and data_dir are used
    own: OwnImagesConfig | None = None  # images of the node's own
    formats: tuple[Format, ...] = Field(min_length=1)
    seed: int = 0
    threads: int = Field(default=1, ge=1)


def run_export(
    config: EdgeConfig,
    promoted: Promoted,
    formats: tuple[Format, ...],
    *,
    stop: threading.Event,
) -> list[str]:
    """Export a promoted student; files that are there already stay.

    While another process exports, this waits for its end.

    Args:
        config: of the node; its caps hold.
        promoted: the student.
        formats: those wanted.
        stop: set it to end the child; this then raises.

    Returns:
        What was measured, one line a format that was made.

    Raises:
        CapError: the caps cannot be held, or are too small.
        Interrupted: `stop` was set; nothing is half written.
        TaktError: the child's error.
    """
    state = StateDir(config.state_dir)
    # The daemon and `takt edge export` have the same folder to work in.
    with locked(state.work / _LOCK, should_stop=stop.is_set):
        missing = tuple(
            f for f in formats if not state.exported_file(promoted, f).exists()
        )
        return _export(config, promoted, missing, stop) if missing else []


def _export(
    config: EdgeConfig,
    promoted: Promoted,
    formats: tuple[Format, ...],
    stop: threading.Event,
) -> list[str]:
    """Have a child write files that are not there: what it measured."""
    state = StateDir(config.state_dir)
    dataset = {"name": promoted.dataset, "data_dir": config.data_dir}
    job = ExportJob(
        state_dir=state.root,
        promoted=promoted,
        dataset=DatasetConfig.model_validate(dataset),
        own=config.data,
        formats=formats,
        seed=config.seed,
        threads=num_threads(config.profile),
    )
    write_atomic(state.work / _JOB, job.model_dump_json(indent=1).encode())
    code, lines = _run_child(config, state.work, stop)
    if code == 0:
        return lines
    error = lines[-1] if lines else f"ended with status {code}"
    if code == OUT_OF_MEMORY:
        raise CapError(
            f"the export needs more than {config.profile.memory_mib} MiB; raise "
            f"memory_mib, or export in the cloud with `takt export` ({error})"
        )
    if own_error(code) is None:
        error = f"the export ended with status {code}: {error}; see {state.work / _LOG}"
    raise error_of_child(code, error)


def _run_child(
    config: EdgeConfig, work: Path, stop: threading.Event
) -> tuple[int, list[str]]:
    """Start the child and wait for its end: its exit status and its lines.

    What libraries write on stderr is in a file of its own: only a child that failed has
    its last line there.
    """
    out, log = work / _LINES, work / _LOG
    environment = {**os.environ, **child_environment(config.profile)}
    argv = python("-m", "edge.distill.export", str(work / _JOB))

    def look() -> None:
        if stop.is_set():
            raise Interrupted("stopped while exporting; the student stays")

    with (
        open_executor(
            config.profile, name=config.node, method=config.cap_method
        ) as executor,
        storing(log),
        out.open("wb") as stdout,
        log.open("wb") as stderr,
    ):
        process = executor.spawn(argv, env=environment, stdout=stdout, stderr=stderr)
        code = wait_for(process, executor, look)
        if executor.usage().oom_killed:
            code = OUT_OF_MEMORY
    with storing(work):
        if code:
            return code, [line] if (line := last_line(log, 0)) else []
        return code, out.read_text(errors="replace").splitlines()
