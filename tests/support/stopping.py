"""A verb that a test stops: the processes it has started, and what it has said."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import WAIT_S

from deploy.runtime.processes import end_trees


class Family:
    """Remembers every descendant of a process, also after it is gone."""

    def __init__(self, pid: int) -> None:  # noqa: D107
        self._root = psutil.Process(pid)
        self._seen: dict[int, psutil.Process] = {}

    def look(self) -> None:
        """Note who is there now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self._root.children(recursive=True):
                self._seen[child.pid] = child

    def alive(self) -> list[psutil.Process]:
        """List those that were noted and have not ended."""
        return [
            child
            for child in self._seen.values()
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]

    def signal(self, number: signal.Signals, *, reaches: str) -> None:
        """Send a signal to the process ("self"), its "group", or "all" of them."""
        self.look()
        if reaches == "self":
            self._root.send_signal(number)
            return
        os.killpg(self._root.pid, number)
        for member in self.alive() if reaches == "all" else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)


def read_until(words: str, process: "subprocess.Popen[str]") -> None:
    """Read what a process prints up to some words; else fail with all that it said."""
    assert process.stdout is not None and process.stderr is not None
    read = []
    for text in process.stdout:
        if words in text:
            return
        read.append(text)
    said = "".join([*read, process.stderr.read()])
    pytest.fail(f"it ended before it said '{words}', with:\n{said}")


def stop(
    argv: list[str],
    ready: Callable[["subprocess.Popen[str]"], None],
    number: signal.Signals,
    *,
    reaches: str,
    folder: Path,
) -> tuple[int, str]:
    """Start a verb, send a signal when it is ready; return how it ended and its stderr.

    Nothing that it has started is left then, and its temporary folder is empty.
    """
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    family = Family(process.pid)
    with process:
        try:
            ready(process)
            family.signal(number, reaches=reaches)
            _, err = process.communicate(timeout=WAIT_S)
        finally:  # a test that fails leaves nothing running
            end_trees([process], grace_s=20)
    assert family.alive() == []
    assert list(folder.iterdir()) == []
    return process.returncode, err
