"""A cgroup's folder, whichever version: who is in it, and how it goes away.

takt's groups are called ``takt.<node>.<owner>.<number>``; the owner names the
daemon that made them, so that those of a dead daemon can be told and removed.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from edge.limits import procfs as processes

MAX_PROCESSES = 256  # in a group: ends a fork bomb, far above what torch starts


def group_members(folder: Path) -> list[int]:
    """List the processes of a group; none when it is gone."""
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def remove_group(folder: Path) -> None:
    """Kill what lives in a group and remove it; give up quietly after a second.

    What cannot be removed now is stale once the daemon ends, and goes then.
    """
    for _ in range(100):
        for pid in group_members(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # busy until the last process is really gone
            time.sleep(0.01)


def remove_stale(parent: Path) -> None:
    """Remove the groups that dead daemons left under `parent`."""
    for folder in parent.glob("takt.*.*.*"):
        if processes.is_dead(folder.name.split(".")[2]):
            remove_group(folder)


def quota_period_us(cpus: float) -> int:
    """Choose a CFS period: short, but its quota at least the kernel's 1 ms."""
    return min(1_000_000, max(50_000, int(1000 / cpus) + 1))
