"""Runs one child process, and all that it starts, inside its caps.

`Executor` starts the child, watches it from one thread, kills the whole tree on
request and reports what it used. Not here: how a cap is enforced (the backends of
`edge/limits/backend.py`), which backend is used (`edge/limits/methods.py`).
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.errors import CapError
from edge.limits import procfs
from edge.limits.backend import Backend, Caps
from edge.limits.process import CappedProcess, Stream, start


@dataclass(frozen=True)
class Usage:
    """What the processes of an executor used so far, finished ones included.

    `memory_mib` and `peak_memory_mib` are the anonymous memory (RssAnon + swap,
    summed over the tree, pages shared after a fork once) at and up to the last of
    the samples, which are 50 to 100 ms apart: the same definition for every
    method, without file cache, blind to a spike shorter than that.
    """

    cpu_s: float
    peak_memory_mib: float
    memory_mib: float
    oom_killed: bool  # the last child was killed for its memory


class Executor:
    """Runs one child at a time inside the caps of its backend."""

    def __init__(
        self, backend: Backend, caps: Caps, *, name: str, notes: Sequence[str] = ()
    ) -> None:
        """Use a backend whose caps are set; `open_executor` makes both."""
        self.method = backend.method
        self.hard = backend.hard
        self.caps = caps
        self.name = name
        self.notes = tuple(notes)  # what differs from the profile, and why
        self._backend = backend
        self._process: CappedProcess | None = None
        self._watcher: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._finished_cpu_s = 0.0
        self._running_cpu_s = 0.0
        self._memory_mib = 0.0
        self._peak_mib = 0.0
        self._was_over = False  # killed by `is_over`
        self._kills_before = 0
        self._last: Usage | None = None  # set by close

    def __enter__(self) -> Self:
        """Return the executor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the executor."""
        self.close()

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        *,
        cwd: Path | None = None,
    ) -> CappedProcess:
        """Start a child inside its caps; return once it runs there.

        It dies with this process, also when this process is killed.

        Args:
            argv: the program and its arguments.
            env: its whole environment; None passes the daemon's own on.
            stdout: where its output goes, as for `subprocess.Popen`.
            stderr: the same for its errors.
            cwd: its working directory.

        Raises:
            CapError: it could not be put inside its caps, or not be started.
        """
        if self._process is not None and self._process.poll() is None:
            raise CapError(
                f"executor {self.name} already runs pid {self._process.pid}; "
                "wait for it, or kill it first"
            )
        self._settle()
        environment = {**(os.environ if env is None else env)}
        environment[procfs.MARK] = self.name
        self._kills_before = self._backend.oom_kills()
        self._was_over = False
        process = start(self._backend.launch(), argv, environment, stdout, stderr, cwd)
        self._process = process
        process.on_exit = self._sample_cpu
        self._stop.clear()
        self._watcher = threading.Thread(
            target=self._watch, args=(process,), name="takt-watchdog", daemon=True
        )
        self._watcher.start()
        return process

    def usage(self) -> Usage:
        """Return what the processes used so far; works after `close` as well."""
        if self._last is not None:
            return self._last
        process = self._process
        if process is not None:
            process.poll()
        self._sample_cpu()
        group_cpu_s = self._backend.cpu_s()
        killed_by_kernel = (
            process is not None
            and process.returncode == -signal.SIGKILL
            and self._backend.oom_kills() > self._kills_before
        )
        with self._lock:
            cpu_s = self._finished_cpu_s + self._running_cpu_s
            return Usage(
                cpu_s=cpu_s if group_cpu_s is None else group_cpu_s,
                peak_memory_mib=self._peak_mib,
                memory_mib=self._memory_mib,
                oom_killed=self._was_over or killed_by_kernel,
            )

    def kill(self) -> None:
        """Kill the child and everything it started; another `spawn` may follow.

        Raises:
            CapError: a process hangs in the kernel and does not die.
        """
        process = self._process
        if process is None:
            return
        members: set[int] = set()
        for _ in range(200):  # processes forked meanwhile are found by the next round
            members = self._leftovers(process)
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not members and process.poll() is not None:
                return
            time.sleep(0.01)
        raise CapError(
            f"executor {self.name}: processes {sorted(members)} do not die; they hang "
            "in the kernel (a stuck disk or network mount?)"
        )

    def close(self) -> None:
        """Kill what still runs, stop watching and remove the group."""
        if self._last is not None:
            return
        try:
            self.kill()
        finally:
            self._last = self.usage()
            self._settle()
            self._backend.remove()

    def _leftovers(self, process: CappedProcess) -> set[int]:
        """List what still runs, also processes that left the tree of a dead root."""
        members = set(procfs.marked(self.name))
        if process.returncode is None:
            members.update(self._backend.members(process.pid))
        return {pid for pid in members if procfs.is_alive(pid)}

    def _settle(self) -> None:
        """Stop watching and add the finished child's CPU time to the total."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        with self._lock:
            self._finished_cpu_s += self._running_cpu_s
            self._running_cpu_s = 0.0
            self._memory_mib = 0.0
        if self._process is not None:
            self._process.on_exit = None
            self._process = None

    def _watch(self, process: CappedProcess) -> None:
        """Sample and pace until the child ends; then kill what it left behind."""
        next_sample = 0.0
        members = [process.pid]
        while not self._stop.is_set() and not process.is_dead():
            now = time.monotonic()
            if now >= next_sample:
                members = self._backend.members(process.pid)
                self._sample_memory(members)
                next_sample = now + self._backend.sample_s
            next_pace = self._backend.pace(members, now)
            self._stop.wait(max(0.0, min(next_sample, next_pace) - time.monotonic()))
        if not self._stop.is_set():
            self._sample_cpu()
            for pid in self._leftovers(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _sample_memory(self, members: Sequence[int]) -> None:
        memory = {pid: m for pid in members if (m := procfs.memory(pid)) is not None}
        total = procfs.total_anonymous_mib(memory)
        with self._lock:
            self._memory_mib = total
            self._peak_mib = max(self._peak_mib, total)
        if self._backend.is_over(memory, total):
            self._was_over = True
            for pid in memory:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._sample_cpu(members)

    def _sample_cpu(self, members: Sequence[int] | None = None) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self._backend.cpu_s() is not None:  # the group itself counts
            return
        if members is None:
            members = procfs.tree(process.pid)
        total = sum(map(procfs.cpu_s, members))
        with self._lock:
            self._running_cpu_s = max(self._running_cpu_s, total)
