"""What a method of capping must be able to do; the methods are its subclasses.

    CgroupV2, CgroupV1   cgroup_v2.py, cgroup_v1.py   own group, hard
    SystemdScope         systemd_scope.py             systemd's group, hard
    Inherited            inherited.py                 the container's, hard
    SoftCap              watchdog.py                  watchdog, soft

A holder holds the caps of one cage. It starts and watches no process: that is
the cage's work (`edge/limits/executor.py`), which asks its holder at the right moments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from edge.limits import procfs as processes


@dataclass(frozen=True)
class Caps:
    """The caps that hold: the profile's, or the machine's where those are smaller."""

    cpus: float  # cores
    memory_mib: float


@dataclass(frozen=True)
class Launch:
    """What a holder wants of the start of a child."""

    prefix: tuple[str, ...] = ()  # a command that runs the launcher
    groups: tuple[str, ...] = ()  # cgroup.procs files to enter
    limits: Mapping[str, int] = field(default_factory=dict)  # RLIMIT_...: bytes
    env: Mapping[str, str] = field(default_factory=dict)  # what the prefix needs


class Holder:
    """Holds the caps of one cage by one method; every part has a plain default."""

    method: ClassVar[str]
    hard: ClassVar[bool] = True
    sample_s: ClassVar[float] = 0.1  # between two looks at the memory

    def launch(self) -> Launch:
        """Say how a child gets into its caps."""
        return Launch()

    def members(self, root: int) -> list[int]:
        """List the live processes of the cage."""
        return processes.tree(root)

    def is_over(self, memory: Mapping[int, processes.Memory], total_mib: float) -> bool:
        """Look at a memory sample of all members; True means: over the cap, kill."""
        return False

    def pace(self, members: Sequence[int], now: float) -> float:
        """Hold the CPU share; return when to be called next (monotonic seconds)."""
        return float("inf")

    def cpu_s(self) -> float | None:
        """Read the CPU-seconds of the group, if there is one of our own."""
        return None

    def peak_mib(self) -> float | None:
        """Read the group's memory peak, file cache included, if it is our own."""
        return None

    def oom_kills(self) -> int:
        """Count the kernel's kills for memory in the group, ever."""
        return 0

    def remove(self) -> None:
        """Remove the group, which is empty by now."""
