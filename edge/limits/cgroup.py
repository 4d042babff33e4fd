"""takt's own control groups of both versions: members, kernel's kills, their end.

They are called ``takt.<node>.<owner>.<number>``; the owner names the daemon that made
them, so that the groups of a dead daemon are recognised and removed. Not here: where
this process's groups are (common/cgroups.py), the caps (edge/limits/cgroup_v1.py,
edge/limits/cgroup_v2.py).
"""

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

from common.cgroups import own_group, read_counter, read_number
from edge.limits import procfs

MAX_PROCESSES = 256  # in a group: ends a fork bomb, far above what torch starts


def oom_kills_v2(group: Path) -> int:
    """Count the kernel's kills for memory in a v2 group, ever."""
    return read_counter(group / "memory.events", "oom_kill") or 0


def oom_kills_v1(group: Path) -> int:
    """Count the kernel's kills for memory in a v1 group, ever."""
    kills = read_counter(group / "memory.oom_control", "oom_kill")
    if kills is None:  # before Linux 4.13: how often the limit was hit
        kills = read_number(group / "memory.failcnt")
    return kills or 0


def oom_kills_above() -> int:
    """Count the kernel's kills for memory in this process's own groups, ever."""
    v2, v1 = own_group(""), own_group("memory")
    return (oom_kills_v2(v2) if v2 else 0) + (oom_kills_v1(v1) if v1 else 0)


def group_members(folder: Path) -> list[int]:
    """List the processes of a group; none when it is gone."""
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def remove_group(folder: Path) -> None:
    """Kill a group's processes and remove it; give up silently after a second.

    A group that stays is stale once the daemon has ended, and is removed then.
    """
    for _ in range(100):
        try:
            for pid in group_members(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            folder.rmdir()
            return
        except OSError as e:
            if e.errno != errno.EBUSY:  # not there, or not ours: no wait changes that
                return
            time.sleep(0.01)  # until the kernel has removed the last process


def remove_stale(parent: Path) -> None:
    """Remove the groups that dead daemons left under `parent`."""
    for folder in parent.glob("takt.*.*.*"):
        if procfs.is_dead(folder.name.split(".")[2]):
            remove_group(folder)


def quota_period_us(cpus: float) -> int:
    """Choose a CFS period: short, but its quota at least the kernel's 1 ms."""
    return min(1_000_000, max(50_000, int(1000 / cpus) + 1))
