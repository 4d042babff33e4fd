"""Caps for an ordinary user without a cgroup: watched, not enforced by the kernel.

Memory: the watchdog kills the tree when its summed anonymous memory is over the
cap at a sample, and between samples RLIMIT_DATA lets each process grow by what
is left, so that one huge allocation fails at once. RLIMIT_DATA counts memory
that is reserved but not touched (740 MiB after importing a CUDA build of torch,
of which 290 MiB are touched), so its limit is set from what is in use, anew at
each sample, instead of to the cap.

CPU: SIGSTOP and SIGCONT in a closed loop on the measured CPU time.

A tree can go over its cap by what it touches within one sample (50 ms), and a
process that resets its limits or its environment escapes: this is a cap for
honest programs. The name of the method is "soft".
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from edge.limits import procfs
from edge.limits.backend import Backend, Caps, Launch
from edge.limits.cgroup import oom_kills_above

_MIB = 1024 * 1024
PERIOD_S = 0.1  # one stop and one go in this time
# Importing torch maps 340 MiB of library data at once (the CUDA build), touched
# only in part, and takes 4 CPU-seconds; a late sample must not make it fail.
IMPORT_CPU_S = 6.0
IMPORT_SLACK_MIB = 512.0


class CpuPacer:
    """Decide when a tree runs and when it is stopped, from its measured CPU time.

    The share is a credit in CPU-seconds that grows with time and shrinks with
    use. Overuse becomes a debt (so the mean is exact however late the loop wakes);
    what was not used is kept for two periods only.
    """

    def __init__(self, cpus: float, *, period_s: float = PERIOD_S) -> None:
        """Start with a full credit of one period."""
        self._cpus = cpus
        self._burst = cpus * period_s
        self._period_s = period_s
        self._credit = self._burst
        self._last: tuple[float, float] | None = None  # (time, CPU-seconds)
        self.running = True

    def step(self, now: float, cpu_s: float) -> float:
        """Take a measurement; set `running`; return the seconds until the next.

        Args:
            now: monotonic seconds.
            cpu_s: CPU-seconds of the tree so far.
        """
        rate = 1.0  # cores in use
        if self._last is not None:
            elapsed, used = now - self._last[0], max(0.0, cpu_s - self._last[1])
            self._credit += self._cpus * elapsed - used
            self._credit = min(self._credit, 2 * self._burst)
            if self.running and elapsed > 0:
                rate = max(rate, used / elapsed)
        self._last = (now, cpu_s)
        if self.running:
            self.running = self._credit > 0
        else:
            self.running = self._credit >= self._burst
        if not self.running:
            return max(0.001, (self._burst - self._credit) / self._cpus)
        net = rate - self._cpus  # how fast the credit shrinks
        until_empty = self._credit / net if net > 0 else self._period_s
        # Not finer: the overuse of a late stop becomes a debt, so it costs no accuracy.
        return min(self._period_s, max(self._period_s / 10, until_empty))


class Watchdog(Backend):
    """Enforces the caps by sampling and signals; the fallback that always works."""

    method: ClassVar[str] = "soft"
    hard: ClassVar[bool] = False
    sample_s: ClassVar[float] = 0.05

    def __init__(self, caps: Caps) -> None:
        """Take the caps; nothing is set up before a child starts."""
        self._caps = caps
        self._pacer = CpuPacer(caps.cpus)
        self._next_pace = 0.0
        self._stopped = False
        self._reaped_s: dict[int, float] = {}  # read at each sample of the memory

    def launch(self) -> Launch:
        """Start with a generous bound, which the samples tighten."""
        bound = int((self._caps.memory_mib + IMPORT_SLACK_MIB) * _MIB)
        self._pacer = CpuPacer(self._caps.cpus)
        self._next_pace = 0.0
        self._stopped = False
        self._reaped_s = {}
        return Launch(limits={"RLIMIT_DATA": bound})

    def is_over(self, memory: Mapping[int, procfs.Memory], total_mib: float) -> bool:
        """Compare the sum with the cap; let each process grow by what is left."""
        left_mib = self._caps.memory_mib - total_mib
        if left_mib < 0:
            return True
        for pid, found in memory.items():
            young = procfs.own_cpu_s(pid) < IMPORT_CPU_S
            slack_mib = IMPORT_SLACK_MIB if young else 0.0
            bound = int((found.data_mib + left_mib + slack_mib) * _MIB)
            with contextlib.suppress(OSError, ValueError):  # gone, or not ours
                hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
                if hard != resource.RLIM_INFINITY:
                    bound = min(bound, hard)
                resource.prlimit(pid, resource.RLIMIT_DATA, (bound, hard))
        self._reaped_s = {pid: procfs.reaped_cpu_s(pid) for pid in memory}
        return False

    def pace(self, members: Sequence[int], now: float) -> float:
        """Stop or continue the tree; return when to call again."""
        if now < self._next_pace:
            return self._next_pace
        now = time.monotonic()
        used = sum(map(procfs.own_cpu_s, members)) + sum(self._reaped_s.values())
        delay = self._pacer.step(now, used)
        if self._pacer.running == self._stopped:
            self._signal(members)
        self._next_pace = now + delay
        return self._next_pace

    def oom_kills(self) -> int:
        """Count the kernel's kills: a container around may be the smaller cap."""
        return oom_kills_above()

    def _signal(self, members: Sequence[int]) -> None:
        self._stopped = not self._pacer.running
        number = signal.SIGSTOP if self._stopped else signal.SIGCONT
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
