"""Runs one distillation: a capped child process, its progress, and how it ended.

Starts ``python -m edge.distill JOB.json`` in an executor and follows its progress. How
the child ends decides what follows: out of memory (the batch is halved, once), killed
(it is started again from its checkpoint, a few times), or an error of its own (raised
as the error that its exit code stands for). Not here: the caps
(edge/limits/methods.py), the training (edge/distill/run.py).
"""

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from common.config import ProfileConfig
from common.durable import storing, write_atomic
from common.effective_limits import address_space_mib
from common.errors import (
    OUT_OF_MEMORY,
    CapError,
    Interrupted,
    MemoryCapError,
    StorageError,
    TaktError,
    error_of,
)
from common.interpreter import python
from common.records import Cap, Record
from common.text import shortened
from edge.jobs.job import (
    PROGRESS,
    RESULT,
    DistilJob,
    DistilResult,
    EpochPoint,
    read_message,
    read_progress,
)
from edge.limits import Executor, child_environment, open_executor

JOB, LOG, USAGE = "job.json", "child.log", "usage.json"
MAX_CRASHES = 3  # of one distillation, each continued from its checkpoint
_TICK_S = 0.2
_TERMINATE_S = 4.0  # of the ten seconds that a stop may take
_MAX_LOG_BYTES = 1024 * 1024

Progress = Callable[[EpochPoint | None, "ChildUsage"], None]


class ChildUsage(Record):
    """What a distillation's children used, restarts included (usage.json)."""

    cap: Cap
    peak_memory_mib: float = 0.0
    halved_to: int | None = None  # batch size, when the recipe's was too much


class Distillation:
    """Runs one job to its end; made anew for each release."""

    def __init__(
        self,
        profile: ProfileConfig,
        *,
        node: str,
        cap_method: str | None,
        stop: threading.Event,
        on_progress: Progress,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            profile: the caps.
            node: part of the executor's name.
            cap_method: this one only; None: the first that works.
            stop: set it to end the child; `run` then raises.
            on_progress: called with the last epoch and the usage, every 0.2 s.
        """
        self._profile = profile
        self._node = node
        self._cap_method = cap_method
        self._stop = stop
        self._on_progress = on_progress

    def run(
        self, job: DistilJob, *, default_batch_size: int
    ) -> tuple[DistilResult, ChildUsage]:
        """Distil; start the child again as often as that is allowed and of use.

        Args:
            job: its work folder exists; a finished or halved job in it is continued.
            default_batch_size: the recipe's, to be halved when memory runs out.

        Raises:
            MemoryCapError: over the memory cap, also with half the batch.
            CapError: the caps cannot be enforced, or are too small to start with.
            StorageError: the disk is full; the checkpoint is kept.
            Interrupted: `stop` was set; the checkpoint is kept.
            TaktError: the child's error, or too many crashes.
        """
        usage_file = job.work_dir / USAGE
        result: DistilResult | None = None
        with contextlib.suppress(StorageError):
            result = read_message(job.work_dir / RESULT, DistilResult)
        if result is not None:
            with contextlib.suppress(OSError, ValueError):
                return result, ChildUsage.model_validate_json(usage_file.read_bytes())
        with open_executor(
            self._profile, name=self._node, method=self._cap_method
        ) as executor:
            if result is None:
                result, job = self._until_done(executor, job, default_batch_size)
            usage = _usage(executor).model_copy(update={"halved_to": job.batch_size})
        write_atomic(usage_file, usage.model_dump_json().encode())
        return result, usage

    def _until_done(
        self, executor: Executor, job: DistilJob, default_batch_size: int
    ) -> tuple[DistilResult, DistilJob]:
        """Start the child until it is done; return the job that was done."""
        job = _continued(job)
        crashes = 0
        while True:
            data = job.model_dump_json(indent=1).encode()
            write_atomic(job.work_dir / JOB, data, point="edge.job")
            code, error = self._run_once(executor, job)
            out_of_memory = executor.usage().oom_killed or code == OUT_OF_MEMORY
            if code == 0:
                return read_message(job.work_dir / RESULT, DistilResult), job
            if out_of_memory:
                job = self._halved(job, default_batch_size, executor, error)
                continue
            if (kind := own_error(code)) is not None:
                raise kind(error)
            crashes += 1
            if crashes > MAX_CRASHES:
                raise unexplained(
                    f"the distillation ended {crashes} times with status {code}: "
                    f"{error}; see {job.work_dir / LOG}"
                )

    def _halved(
        self,
        job: DistilJob,
        default_batch_size: int,
        executor: Executor,
        error: str,
    ) -> DistilJob:
        """Make the job of the second try; raise if the batch was halved already."""
        batch_size = job.batch_size or default_batch_size
        halved = max(2, default_batch_size // 2)
        if batch_size <= halved:
            raise MemoryCapError(
                f"OOM-capped: the distillation needs more than its "
                f"{self._profile.memory_mib} MiB ({executor.method}), with batches of "
                f"{default_batch_size} and of {batch_size}; raise memory_mib or choose "
                f"a smaller student ({error})"
            )
        return job.model_copy(update={"batch_size": halved})

    def _run_once(self, executor: Executor, job: DistilJob) -> tuple[int, str]:
        """Start the child and wait for its end: its exit status and last line."""
        log = job.work_dir / LOG
        argv = python("-m", "edge.distill", str(job.work_dir / JOB))
        environment = {**os.environ, **child_environment(self._profile)}
        with storing(log):
            with log.open("ab") as stream:
                if stream.tell() > _MAX_LOG_BYTES:
                    stream.truncate(0)
                    stream.seek(0)
                begin = stream.tell()
                code = self._follow(executor, job, argv, environment, stream)
            error = last_line(log, begin)
        return code, error or f"ended with status {code}"

    def _follow(
        self,
        executor: Executor,
        job: DistilJob,
        argv: list[str],
        environment: dict[str, str],
        stream: IO[bytes],
    ) -> int:
        """Report the child's progress until it ends, or `stop` is set."""
        progress = job.work_dir / PROGRESS

        def look() -> None:
            points = read_progress(progress)
            self._on_progress(points[-1] if points else None, _usage(executor))
            if self._stop.is_set():
                raise Interrupted("stopped while distilling; the checkpoint stays")

        process = executor.spawn(argv, env=environment, stdout=stream, stderr=stream)
        return wait_for(process, executor, look)


def _usage(executor: Executor) -> ChildUsage:
    return ChildUsage(
        cap=Cap(method=executor.method, hard=executor.hard),
        peak_memory_mib=round(executor.usage().peak_memory_mib, 1),
    )


def _continued(job: DistilJob) -> DistilJob:
    """Return the job with the halved batch, if it was interrupted in that."""
    with contextlib.suppress(StorageError):
        earlier = read_message(job.work_dir / JOB, DistilJob)
        if earlier.batch_size and job == earlier.model_copy(
            update={"batch_size": job.batch_size}
        ):
            return earlier
    return job


def wait_for(
    process: "subprocess.Popen[bytes]", executor: Executor, look: Callable[[], None]
) -> int:
    """Wait for a child's end, and end it where that is broken off.

    Args:
        process: the child.
        executor: that holds its caps.
        look: called at once and every 0.2 s; what it raises ends the child.

    Returns:
        The child's exit status.
    """
    try:
        while True:
            look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=_TICK_S)
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_TERMINATE_S)
        executor.kill()
        raise


def own_error(code: int) -> type[TaktError] | None:
    """Return the error that a child ended with; None: it crashed, or was stopped."""
    kind = error_of(code)
    return None if kind in (TaktError, Interrupted) else kind


def error_of_child(code: int, error: str) -> TaktError:
    """Make the error of a child's exit status; `error` is its last line."""
    kind = own_error(code)
    return unexplained(error) if kind is None else kind(error)


def unexplained(error: str) -> TaktError:
    """Make the error of a child that could not say itself what was wrong."""
    limit_mib = address_space_mib()
    if limit_mib is None:
        return TaktError(error)
    return CapError(
        f"{error}; the address space is limited to {limit_mib:.0f} MiB, and torch maps "
        "more than it uses: lift that first, with `ulimit -v unlimited`"
    )


def last_line(log: Path, begin: int) -> str:
    """Read the last line that was written from byte `begin` on."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    found = [line.strip() for line in lines if line.strip()]
    return shortened(found[-1], 400) if found else ""
