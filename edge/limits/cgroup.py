"""Control groups of both versions: where this process is, a group's members, its end.

Reads `/proc/self/mountinfo` and `/proc/self/cgroup` and joins them to folders that
exist here, inside a container too. takt's groups are called
``takt.<node>.<owner>.<number>``; the owner names the daemon that made them, so that
the groups of a dead daemon are recognised and removed.

Without a library: a cgroup is a folder of small text files. The work is to find the
right folder (inside a container, under a delegated service, v1 or v2), which a user of
a library would have to do as well. Not here: the caps (edge/limits/cgroup_v1.py,
edge/limits/cgroup_v2.py).
"""

import contextlib
import errno
import os
import signal
import time
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from edge.limits import procfs

MAX_PROCESSES = 256  # in a group: ends a fork bomb, far above what torch starts


class Mount(NamedTuple):
    """One mounted hierarchy."""

    root: PurePosixPath  # the part of the hierarchy that is visible here
    folder: Path  # where it is mounted
    controllers: frozenset[str]  # of v1; "" alone means v2


def own_group(controller: str, *, proc: Path = Path("/proc/self")) -> Path | None:
    """Find the folder of this process's group: of a v1 controller, or "" for v2."""
    for mount in mounts(proc):
        if controller not in mount.controllers:
            continue
        for line in (proc / "cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                return _visible(mount, PurePosixPath(path))
    return None


def ancestors(controller: str, *, proc: Path = Path("/proc/self")) -> list[Path]:
    """List the own group and all groups above it that can be seen, innermost first."""
    own = own_group(controller, proc=proc)
    if own is None:
        return []
    tops = {mount.folder for mount in mounts(proc)}
    found = [own]
    while found[-1] not in tops and found[-1] != found[-1].parent:
        found.append(found[-1].parent)
    return found


def mounts(proc: Path) -> list[Mount]:
    """List the mounted cgroup hierarchies."""
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, folder = before.split(" ")[3:5]
        if kind == "cgroup2":
            found.append(Mount(PurePosixPath(root), Path(folder), frozenset([""])))
        elif kind == "cgroup":
            controllers = frozenset(options.split(","))
            found.append(Mount(PurePosixPath(root), Path(folder), controllers))
    return found


def _visible(mount: Mount, path: PurePosixPath) -> Path | None:
    """Join a group's path to the mount; a container may see only its own part."""
    try:
        folder = mount.folder / path.relative_to(mount.root)
    except ValueError:  # the group lies above or beside what is mounted
        folder = mount.folder
    return folder if folder.is_dir() else None


def read_number(file: Path) -> int | None:
    """Read a file of one number; None for "max", no limit or no file."""
    try:
        text = file.read_text().split()[0]
    except (OSError, IndexError):
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def read_counter(file: Path, key: str) -> int | None:
    """Read one line's number from a file of "key number" lines; None without it."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, number = line.partition(" ")
        if name == key:
            return int(number)
    return None


def oom_kills_v2(group: Path) -> int:
    """Count the kernel's kills for memory in a v2 group, ever."""
    return read_counter(group / "memory.events", "oom_kill") or 0


def oom_kills_v1(group: Path) -> int:
    """Count the kernel's kills for memory in a v1 group, ever."""
    kills = read_counter(group / "memory.oom_control", "oom_kill")
    if kills is None:  # before Linux 4.13: how often the limit was hit
        kills = read_number(group / "memory.failcnt")
    return kills or 0


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
