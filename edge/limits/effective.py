"""What this process may use at most: the least of machine, container and affinity.

The number of cores and the memory that other tools report are the host's, also
inside a container; a node that sizes itself by them is killed. This reads the
limits of all visible cgroups above this process, v2 and v1. It sets nothing, and knows
no method of enforcing caps: those, and programs beside a node, use it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from edge.limits.cgroup import (
    ancestors,
    oom_kills_v1,
    oom_kills_v2,
    own_group,
    read_number,
)

_MIB = 1024 * 1024


@dataclass(frozen=True)
class EffectiveLimits:
    """The least of all limits in force, and where each comes from."""

    cpus: float  # cores
    cpus_by: str
    memory_mib: float
    memory_by: str


def effective_limits(*, proc: Path = Path("/proc")) -> EffectiveLimits:
    """Read the limits in force for this process, apart from any executor's."""
    affinity = len(os.sched_getaffinity(0))
    cores = os.cpu_count() or affinity
    cpus = [(float(affinity), "the machine" if affinity == cores else "CPU affinity")]
    memory = [(_machine_memory_mib(proc), "the machine")]
    memory_group, cpu_group = group_limits(proc=proc / "self")
    if memory_group is not None:
        memory.append((memory_group, "its control group"))
    if cpu_group is not None:
        cpus.append((cpu_group, "its control group"))
    return EffectiveLimits(*min(cpus), *min(memory))


def group_limits(
    *, proc: Path = Path("/proc/self")
) -> tuple[float | None, float | None]:
    """Read (memory in MiB, cores) from the cgroups above; None where unlimited."""
    memory = [read_number(group / "memory.max") for group in ancestors("", proc=proc)]
    cpus = [_quota_v2(group) for group in ancestors("", proc=proc)]
    for group in ancestors("memory", proc=proc):
        memory.append(read_number(group / "memory.limit_in_bytes"))
    cpus.extend(_quota_v1(group) for group in ancestors("cpu", proc=proc))
    # v1 says "unlimited" by a number near 2^63.
    memory_mib = [m / _MIB for m in memory if m is not None and m < 1 << 60]
    cores = [c for c in cpus if c is not None]
    return min(memory_mib, default=None), min(cores, default=None)


def oom_kills_above() -> int:
    """Count the kernel's kills for memory in this process's own groups, ever."""
    v2, v1 = own_group(""), own_group("memory")
    return (oom_kills_v2(v2) if v2 else 0) + (oom_kills_v1(v1) if v1 else 0)


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
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{proc}/meminfo has no MemTotal")
