"""Caps by cgroup v1: an own group per controller (usually needs root).

Memory without swap, CPU by CFS quota, number of processes. The groups of daemons that
ended are removed when the next executor opens.
"""

import contextlib
from collections.abc import Mapping
from typing import ClassVar

from common.cgroups import own_group, read_number
from edge.limits import procfs
from edge.limits.backend import Backend, Caps, Launch, UnavailableError, cannot
from edge.limits.cgroup import (
    MAX_PROCESSES,
    group_members,
    oom_kills_v1,
    quota_period_us,
    remove_group,
    remove_stale,
)

_MIB = 1024 * 1024


class CgroupV1(Backend):
    """Enforces the caps by a group under the daemon's own, in each v1 hierarchy."""

    method: ClassVar[str] = "cgroup-v1"

    def __init__(self, name: str, caps: Caps) -> None:
        """Make the groups and set the caps.

        Raises:
            CapError: a hierarchy is missing, or groups cannot be made or set.
        """
        parents = {c: own_group(c) for c in ("memory", "cpu", "cpuacct", "pids")}
        missing = [c for c in ("memory", "cpu", "cpuacct") if parents[c] is None]
        if missing:
            raise UnavailableError(f"no cgroup v1 hierarchy for {', '.join(missing)}")
        self._kills_before = 0
        self._folders = {c: p / name for c, p in parents.items() if p is not None}
        try:
            for folder in self._folders.values():
                remove_stale(folder.parent)
                folder.mkdir(exist_ok=True)  # cpu and cpuacct may be one hierarchy
            self._set(caps)
        except OSError as e:
            self.remove()
            raise cannot("make a cgroup v1 group", e) from e

    def _set(self, caps: Caps) -> None:
        memory, cpu = self._folders["memory"], self._folders["cpu"]
        limit = str(int(caps.memory_mib * _MIB))
        (memory / "memory.limit_in_bytes").write_text(limit)
        with contextlib.suppress(OSError):  # a kernel without swap accounting
            (memory / "memory.memsw.limit_in_bytes").write_text(limit)
        with contextlib.suppress(OSError):
            (memory / "memory.swappiness").write_text("0")
        period_us = quota_period_us(caps.cpus)
        (cpu / "cpu.cfs_period_us").write_text(str(period_us))
        (cpu / "cpu.cfs_quota_us").write_text(str(int(period_us * caps.cpus)))
        if "pids" in self._folders:
            (self._folders["pids"] / "pids.max").write_text(str(MAX_PROCESSES))

    def launch(self) -> Launch:
        """Enter every group at the start."""
        self._kills_before = self.oom_kills()
        groups = dict.fromkeys(f / "cgroup.procs" for f in self._folders.values())
        return Launch(groups=tuple(str(group) for group in groups))

    def members(self, root: int) -> list[int]:
        """List the processes of the group."""
        return group_members(self._folders["memory"])

    def is_over(self, memory: Mapping[int, procfs.Memory], total_mib: float) -> bool:
        """Check whether the kernel killed a process; then kill all, as in v2."""
        return self.oom_kills() > self._kills_before

    def cpu_s(self) -> float | None:
        """Read the group's CPU-seconds."""
        used_ns = read_number(self._folders["cpuacct"] / "cpuacct.usage")
        return None if used_ns is None else used_ns / 1e9

    def oom_kills(self) -> int:
        """Count the kernel's kills for memory."""
        return oom_kills_v1(self._folders["memory"])

    def remove(self) -> None:
        """Remove the groups."""
        for folder in self._folders.values():
            remove_group(folder)
