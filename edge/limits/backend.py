"""What a method of enforcing caps must be able to do; the methods are subclasses.

    CgroupV2, CgroupV1   cgroup_v2.py, cgroup_v1.py   own group, hard
    SystemdScope         systemd_scope.py             systemd's group, hard
    Inherited            inherited.py                 the container's, hard
    Watchdog             watchdog.py                  samples and signals, soft

A backend enforces the caps of one executor. It starts and watches no process: the
executor (`edge/limits/executor.py`) does, and calls its backend at the right moments.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from common.errors import CapError
from edge.limits import procfs

_FINAL = {errno.EACCES, errno.EPERM, errno.EROFS}


class UnavailableError(CapError):
    """A method cannot work in this process, with other caps or later either."""


def cannot(what: str, error: OSError) -> CapError:
    """Turn a method's failed system call into the error to raise."""
    kind = UnavailableError if error.errno in _FINAL else CapError
    return kind(f"cannot {what}: {error}")


@dataclass(frozen=True)
class Caps:
    """The caps in force: the profile's, or the machine's where those are smaller."""

    cpus: float  # cores
    memory_mib: float


@dataclass(frozen=True)
class Launch:
    """How a child has to be started to run inside its caps."""

    prefix: tuple[str, ...] = ()  # a command that runs the launcher
    groups: tuple[str, ...] = ()  # cgroup.procs files to enter
    limits: Mapping[str, int] = field(default_factory=dict)  # RLIMIT_...: bytes
    env: Mapping[str, str] = field(default_factory=dict)  # what the prefix needs


class Backend:
    """Enforces the caps of one executor by one method; each method has a default."""

    method: ClassVar[str]
    hard: ClassVar[bool] = True
    sample_s: ClassVar[float] = 0.1  # between two samples of the memory

    def launch(self) -> Launch:
        """Return how a child is put inside its caps."""
        return Launch()

    def members(self, root: int) -> list[int]:
        """List the running processes of the executor."""
        return procfs.tree(root)

    def is_over(self, memory: Mapping[int, procfs.Memory], total_mib: float) -> bool:
        """Check a memory sample of all members; True: over the cap, kill them."""
        return False

    def pace(self, members: Sequence[int], now: float) -> float:
        """Keep the CPU share; return when to be called next (monotonic seconds)."""
        return float("inf")

    def cpu_s(self) -> float | None:
        """Read the CPU-seconds of the executor's own group; None without one."""
        return None

    def oom_kills(self) -> int:
        """Count the kernel's kills for memory in the group, ever."""
        return 0

    def remove(self) -> None:
        """Remove the own group, which is empty by now."""
