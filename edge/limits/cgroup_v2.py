"""Caps by cgroup v2: a leaf under the daemon's delegated group.

Works where the daemon has a group to itself (a service with `Delegate=yes`, a
container with a writable cgroup tree, the root group). A group with processes in
it cannot enable controllers for its children, so the daemon first moves itself into a
leaf.
"""

import contextlib
import os
from pathlib import Path
from typing import ClassVar

from common.cgroups import own_group, read_counter
from common.errors import CapError
from edge.limits.backend import Backend, Caps, Launch, UnavailableError, cannot
from edge.limits.cgroup import (
    MAX_PROCESSES,
    group_members,
    oom_kills_v2,
    quota_period_us,
    remove_group,
    remove_stale,
)

_DAEMON_LEAF = "takt-daemon"
_CONTROLLERS = ("memory", "cpu", "pids")
_MIB = 1024 * 1024


class CgroupV2(Backend):
    """Enforces the caps by a leaf group for one executor."""

    method: ClassVar[str] = "cgroup-v2"

    def __init__(self, name: str, caps: Caps) -> None:
        """Make the leaf and set the caps.

        Raises:
            CapError: there is no v2 hierarchy, it has no memory or cpu
                controller here, or the daemon may not use it.
        """
        # A container's init may be moved too; elsewhere it is in another group.
        self._make_leaf(_delegated(), name, caps, movable={os.getpid(), 1})

    def _make_leaf(
        self, parent: Path, name: str, caps: Caps, *, movable: set[int]
    ) -> None:
        self._folder = parent / name
        try:
            _enable_controllers(parent, movable)
            remove_stale(parent)
            self._folder.mkdir()
            self._set(caps)
        except OSError as e:
            remove_group(self._folder)
            raise cannot("make a cgroup v2 leaf", e) from e

    def _set(self, caps: Caps) -> None:
        limit = int(caps.memory_mib * _MIB)
        period_us = quota_period_us(caps.cpus)
        # No memory.high: without swap it stalls a child that needs more (measured:
        # not dead after 60 s), and one that dies gets a second try with half a batch.
        self._write("memory.max", limit)
        with contextlib.suppress(OSError):  # a kernel without swap accounting
            self._write("memory.swap.max", 0)
        with contextlib.suppress(OSError):  # since Linux 4.19
            self._write("memory.oom.group", 1)
        self._write("cpu.max", f"{int(caps.cpus * period_us)} {period_us}")
        with contextlib.suppress(OSError):  # the controller may be missing
            self._write("pids.max", MAX_PROCESSES)

    def _write(self, file: str, value: int | str) -> None:
        (self._folder / file).write_text(str(value))

    def launch(self) -> Launch:
        """Enter the leaf at the start."""
        return Launch(groups=(str(self._folder / "cgroup.procs"),))

    def members(self, root: int) -> list[int]:
        """List the processes of the leaf."""
        return group_members(self._folder)

    def cpu_s(self) -> float | None:
        """Read the leaf's CPU-seconds."""
        used_us = read_counter(self._folder / "cpu.stat", "usage_usec")
        return None if used_us is None else used_us / 1e6

    def oom_kills(self) -> int:
        """Count the kernel's kills for memory."""
        return oom_kills_v2(self._folder)

    def remove(self) -> None:
        """Remove the leaf."""
        remove_group(self._folder)


def _delegated() -> Path:
    """Find the group under which leaves go.

    Raises:
        CapError: no v2 hierarchy is mounted.
    """
    own = own_group("")
    if own is None:
        raise UnavailableError("no cgroup v2 hierarchy is mounted")
    return own.parent if own.name == _DAEMON_LEAF else own


def _enable_controllers(parent: Path, movable: set[int]) -> None:
    """Enable the controllers for the groups under `parent`.

    Args:
        parent: the group that leaves are made in.
        movable: the processes that may be moved out of it, into a leaf.

    Raises:
        CapError: it lacks a controller, or other programs run in it.
        OSError: it may not be written.
    """
    control = parent / "cgroup.subtree_control"
    offered = (parent / "cgroup.controllers").read_text().split()
    missing = {"memory", "cpu"} - set(offered)
    if missing:
        raise CapError(
            f"cgroup v2 group {parent} has no {' and '.join(sorted(missing))} "
            "controller; have it delegated (Delegate=yes in the service)"
        )
    wanted = [c for c in _CONTROLLERS if c in offered]
    if set(wanted) <= set(control.read_text().split()):
        return
    # Only the topmost group of the machine may have processes and pass them on.
    if (parent / "cgroup.type").exists():
        others = set(group_members(parent)) - movable
        if others:
            raise CapError(
                f"other processes ({len(others)}) share the daemon's group {parent}; "
                "start it as a service with Delegate=yes"
            )
        leaf = parent / _DAEMON_LEAF
        leaf.mkdir(exist_ok=True)
        for pid in group_members(parent):
            (leaf / "cgroup.procs").write_text(str(pid))
    control.write_text(" ".join(f"+{c}" for c in wanted))
