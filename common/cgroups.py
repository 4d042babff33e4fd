"""Control groups of both versions: where this process is, and what their files say.

Reads `/proc/self/mountinfo` and `/proc/self/cgroup` and joins them to folders that
exist here, inside a container too. Without a library: a cgroup is a folder of small
text files. The work is to find the right folder (inside a container, under a delegated
service, v1 or v2), which a user of a library would have to do as well. Not here: what
the limits amount to (common/effective_limits.py), groups of takt's own (edge.limits).
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple


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
        for line in _lines(proc / "cgroup"):
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
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, folder = before.split(" ")[3:5]
        if kind == "cgroup2":
            found.append(Mount(PurePosixPath(root), Path(folder), frozenset([""])))
        elif kind == "cgroup":
            controllers = frozenset(options.split(","))
            found.append(Mount(PurePosixPath(root), Path(folder), controllers))
    return found


def read_number(file: Path) -> int | None:
    """Read a file of one number; None for "max", no limit or no file."""
    try:
        text = file.read_text().split()[0]
    except (OSError, IndexError):
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def read_counter(file: Path, key: str) -> int | None:
    """Read one line's number from a file of "key number" lines; None without it."""
    for line in _lines(file):
        name, _, number = line.partition(" ")
        if name == key:
            return int(number)
    return None


def _visible(mount: Mount, path: PurePosixPath) -> Path | None:
    """Join a group's path to the mount; a container may see only its own part."""
    try:
        folder = mount.folder / path.relative_to(mount.root)
    except ValueError:  # the group lies above or beside what is mounted
        folder = mount.folder
    return folder if folder.is_dir() else None


def _lines(file: Path) -> list[str]:
    """Read a file's lines; none where it is absent, as in a sandbox's own /proc."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
