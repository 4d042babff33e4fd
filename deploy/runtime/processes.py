"""Starting child processes, and ending them with all that they started.

Each child gets a session of its own, so that a Ctrl-C in the terminal reaches
the parent only, which then ends its children in order. Not here: the caps
around a distillation (edge.limits) and Ray's processes (cloud.cluster.local).
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from common.interpreter import python

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def single_threaded(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment, with numeric libraries kept to one thread."""
    return {**environment, **dict.fromkeys(THREAD_VARIABLES, "1")}


@cache
def _death_signal() -> tuple[str, ...]:
    """Find the program that ties a child's life to its parent's (util-linux)."""
    path = shutil.which("setpriv")
    return (path, "--pdeathsig", "TERM", "--") if path else ()


def tied_to_parent(argv: Sequence[str]) -> list[str]:
    """Wrap a command so that it gets SIGTERM when this thread is gone.

    For the one end that no clean-up code sees: SIGKILL of the parent. Where util-linux
    is missing the command stays as it is.
    """
    return [*_death_signal(), *argv]


def start_worker(module: str, log: Path) -> "subprocess.Popen[str]":
    """Start ``python -m module`` on one thread: lines in and out, stderr to a log."""
    with log.open("ab") as stderr:
        return subprocess.Popen(
            tied_to_parent(python("-m", module)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env=single_threaded(os.environ),
        )


def start_daemon(
    argv: Sequence[str], log: Path, **variables: str
) -> "subprocess.Popen[bytes]":
    """Start a command on one thread: no input, all output to a log.

    Args:
        argv: the command.
        log: is appended to.
        variables: of its environment, on top of this process's.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            tied_to_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**single_threaded(os.environ), **variables},
        )


def exchange(worker: "subprocess.Popen[str]", line: str) -> str:
    """Write a line to a worker and read one; nothing comes from one that has died."""
    assert worker.stdin is not None
    try:
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
    except (OSError, ValueError):  # ValueError: its pipes were closed meanwhile
        return ""
    return read_line(worker)


def read_line(worker: "subprocess.Popen[str]") -> str:
    """Read a line of a worker; nothing comes from one that has died."""
    assert worker.stdout is not None
    try:
        return worker.stdout.readline()
    except (OSError, ValueError):
        return ""


def close_pipes(worker: "subprocess.Popen[str]") -> None:
    """Close a worker's pipes, whether or not it lived to read what is in them."""
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def end_tree(process: "subprocess.Popen[Any]", *, grace_s: float) -> None:
    """End a child and all its descendants: SIGTERM, after `grace_s` SIGKILL.

    Descendants are noted before the child ends, because afterwards they have
    another parent; psutil tells them from later processes with the same id.
    """
    end_trees([process], grace_s=grace_s)


def end_trees(processes: "Sequence[subprocess.Popen[Any]]", *, grace_s: float) -> None:
    """End several children at once, see `end_tree`."""
    family: list[psutil.Process] = []
    for process in processes:
        if process.poll() is not None:
            continue
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(process.pid)
            family += [*leader.children(recursive=True), leader]
        if grace_s > 0:
            process.terminate()
    deadline = time.monotonic() + grace_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    for process in processes:
        process.wait()
