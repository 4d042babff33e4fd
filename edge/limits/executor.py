"""A cage: one child process, and all that it starts, inside its caps.

`Cage` starts the child, watches it from one thread, kills the whole tree on
demand and says what it used. How a cap is enforced is its holder's matter
(`edge/limits/backend.py`); which holder to use is decided in `edge/limits/methods.py`.
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
from edge.limits import procfs as processes
from edge.limits.backend import Caps, Holder
from edge.limits.process import CagedProcess, Stream, start


@dataclass(frozen=True)
class Usage:
    """What the processes of a cage used so far, finished ones included.

    `memory_mib` and `peak_memory_mib` are the anonymous memory (RssAnon + swap,
    summed over the tree, pages shared after a fork once) at and up to the last of
    the samples, which are 50 to 100 ms apart: the same definition for every
    method, without file cache, blind to a spike shorter than that.
    `group_peak_mib` is the cgroup's own exact peak, which also counts file cache;
    None where there is no group of our own.
    """

    cpu_s: float
    peak_memory_mib: float
    memory_mib: float
    oom_killed: bool  # the last child was killed for its memory
    group_peak_mib: float | None


class Cage:
    """Runs one child at a time inside the caps of its holder."""

    def __init__(
        self, holder: Holder, caps: Caps, *, name: str, notes: Sequence[str] = ()
    ) -> None:
        """Take over a holder that already holds; `open_cage` makes one."""
        self.method = holder.method
        self.hard = holder.hard
        self.caps = caps
        self.name = name
        self.notes = tuple(notes)  # what differs from the profile, and why
        self._holder = holder
        self._process: CagedProcess | None = None
        self._watcher: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._finished_cpu_s = 0.0
        self._running_cpu_s = 0.0
        self._memory_mib = 0.0
        self._peak_mib = 0.0
        self._was_over = False  # killed by the watchdog
        self._kills_before = 0
        self._last: Usage | None = None  # set by close

    def __enter__(self) -> Self:
        """Return the cage itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the cage."""
        self.close()

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
        *,
        cwd: Path | None = None,
    ) -> CagedProcess:
        """Start a child inside its caps; return once it really runs there.

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
                f"cage {self.name} already runs pid {self._process.pid}; "
                "wait for it, or kill it first"
            )
        self._settle()
        environment = {**(os.environ if env is None else env)}
        environment[processes.MARK] = self.name
        self._kills_before = self._holder.oom_kills()
        self._was_over = False
        process = start(self._holder.launch(), argv, environment, stdout, stderr, cwd)
        self._process = process
        process.on_exit = self._sample_cpu
        self._stop.clear()
        self._watcher = threading.Thread(
            target=self._watch, args=(process,), name="takt-watchdog", daemon=True
        )
        self._watcher.start()
        return process

    def usage(self) -> Usage:
        """Say what the cage's processes used so far; works on a closed cage too."""
        if self._last is not None:
            return self._last
        process = self._process
        if process is not None:
            process.poll()
        self._sample_cpu()
        group_cpu_s = self._holder.cpu_s()
        killed_by_kernel = (
            process is not None
            and process.returncode == -signal.SIGKILL
            and self._holder.oom_kills() > self._kills_before
        )
        with self._lock:
            cpu_s = self._finished_cpu_s + self._running_cpu_s
            return Usage(
                cpu_s=cpu_s if group_cpu_s is None else group_cpu_s,
                peak_memory_mib=self._peak_mib,
                memory_mib=self._memory_mib,
                oom_killed=self._was_over or killed_by_kernel,
                group_peak_mib=self._holder.peak_mib(),
            )

    def kill(self) -> None:
        """Kill the child and everything it started; the cage can be used again.

        Raises:
            CapError: a process hangs in the kernel and does not die.
        """
        process = self._process
        if process is None:
            return
        members: set[int] = set()
        for _ in range(200):  # what forks meanwhile is caught by the next round
            members = self._leftovers(process)
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not members and process.poll() is not None:
                return
            time.sleep(0.01)
        raise CapError(
            f"cage {self.name}: processes {sorted(members)} do not die; they hang in "
            "the kernel (a stuck disk or network mount?)"
        )

    def close(self) -> None:
        """Kill what is left, stop watching and remove the group."""
        if self._last is not None:
            return
        try:
            self.kill()
        finally:
            self._last = self.usage()
            self._settle()
            self._holder.remove()

    def _leftovers(self, process: CagedProcess) -> set[int]:
        """List what still lives, also what left the tree of a dead root."""
        members = set(processes.marked(self.name))
        if process.returncode is None:
            members.update(self._holder.members(process.pid))
        return {pid for pid in members if processes.is_alive(pid)}

    def _settle(self) -> None:
        """Stop the watchdog and add the finished child to the account."""
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

    def _watch(self, process: CagedProcess) -> None:
        """Sample and pace until the child is gone; then kill what it left behind."""
        next_sample = 0.0
        members = [process.pid]
        while not self._stop.is_set() and not process.is_dead():
            now = time.monotonic()
            if now >= next_sample:
                members = self._holder.members(process.pid)
                self._sample_memory(members)
                next_sample = now + self._holder.sample_s
            next_pace = self._holder.pace(members, now)
            self._stop.wait(max(0.0, min(next_sample, next_pace) - time.monotonic()))
        if not self._stop.is_set():
            self._sample_cpu()
            for pid in self._leftovers(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _sample_memory(self, members: Sequence[int]) -> None:
        memory = {pid: m for pid in members if (m := processes.memory(pid)) is not None}
        total = processes.total_anonymous_mib(memory)
        with self._lock:
            self._memory_mib = total
            self._peak_mib = max(self._peak_mib, total)
        if self._holder.is_over(memory, total):
            self._was_over = True
            for pid in memory:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._sample_cpu(members)

    def _sample_cpu(self, members: Sequence[int] | None = None) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self._holder.cpu_s() is not None:  # the group counts by itself
            return
        if members is None:
            members = processes.tree(process.pid)
        total = sum(map(processes.cpu_s, members))
        with self._lock:
            self._running_cpu_s = max(self._running_cpu_s, total)
