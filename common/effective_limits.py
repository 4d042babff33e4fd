"""What this process may use at most: the least of machine, container and affinity.

The number of cores and the memory that other tools report are the host's, also
inside a container; who sizes itself by them is slowed down or killed. This reads the
limits of all visible cgroups above this process, v2 and v1. Whatever takes as many
threads, processes or slots as there are cores asks `usable_cores`. It sets nothing, and
knows no method of enforcing caps (edge.limits).
"""

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from common.cgroups import ancestors, read_number

_MIB = 1024 * 1024


@dataclass(frozen=True)
class EffectiveLimits:
    """The least of all limits in force, and where each comes from."""

    cpus: float  # cores
    cpus_by: str
    memory_mib: float
    memory_by: str


@dataclass(frozen=True)
class GroupLimits:
    """The least limits of the control groups above; None where there is none."""

    cpus: float | None  # cores
    memory_mib: float | None  # over it the kernel kills
    slowed_mib: float | None  # over it the kernel stalls (memory.high of v2)


def usable_cores(*, proc: Path = Path("/proc")) -> int:
    """Count the cores that this process can keep busy: min(affinity, ceil(quota))."""
    return max(1, math.ceil(effective_limits(proc=proc).cpus))


def address_space_mib() -> float | None:
    """Read how many MiB this process may map (`ulimit -v`); None: any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft / _MIB


def process_limit(*, proc: Path = Path("/proc/self")) -> tuple[int, str] | None:
    """Read how many processes and threads there may be at once; None: any number.

    Returns:
        The least limit and what sets it: of this user (which does not bind root), or of
        a control group above this process.
    """
    found = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.getuid() != 0:
        found.append((soft, "`ulimit -u`"))
    for group in (*ancestors("", proc=proc), *ancestors("pids", proc=proc)):
        most = read_number(group / "pids.max")
        if most is not None:
            found.append((most, "pids.max of its control group"))
    return min(found, default=None)


def effective_limits(*, proc: Path = Path("/proc")) -> EffectiveLimits:
    """Read the limits in force for this process, apart from any executor's."""
    affinity = len(os.sched_getaffinity(0))
    cores = os.cpu_count() or affinity
    cpus = [(float(affinity), "the machine" if affinity == cores else "CPU affinity")]
    memory = [(_machine_memory_mib(proc), "the machine")]
    group = group_limits(proc=proc / "self")
    if group.memory_mib is not None:
        memory.append((group.memory_mib, "its control group"))
    if group.slowed_mib is not None:
        memory.append((group.slowed_mib, "its control group's memory.high"))
    if group.cpus is not None:
        cpus.append((group.cpus, "its control group"))
    return EffectiveLimits(*min(cpus), *min(memory))


def group_limits(*, proc: Path = Path("/proc/self")) -> GroupLimits:
    """Read the limits of the cgroups above this process."""
    memory: list[int | None] = []
    slowed: list[int | None] = []
    cpus: list[float | None] = []
    for group in ancestors("", proc=proc):
        memory.append(read_number(group / "memory.max"))
        slowed.append(read_number(group / "memory.high"))
        cpus.append(_quota_v2(group))
    for group in ancestors("memory", proc=proc):
        memory.append(read_number(group / "memory.limit_in_bytes"))
    cpus.extend(_quota_v1(group) for group in ancestors("cpu", proc=proc))
    cores = [c for c in cpus if c is not None]
    return GroupLimits(min(cores, default=None), _least(memory), _least(slowed))


def _least(limits: list[int | None]) -> float | None:
    # v1 says "unlimited" by a number near 2^63.
    return min(
        (m / _MIB for m in limits if m is not None and m < 1 << 60), default=None
    )


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    quota = read_number(group / "cpu.cfs_quota_us")
    period = read_number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _machine_memory_mib(proc: Path) -> float:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) / 1024
    except OSError:  # a service with ProcSubset=pid sees processes alone
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MIB
