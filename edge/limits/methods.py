"""The methods of enforcing caps, best first, and which of them works here.

`open_executor` takes the first method that works here: a cgroup v2 leaf, cgroup v1,
a systemd scope, limits inherited from a container, or else the watchdog ("soft"). Each
is tested by starting a process under it.

What is covered:
- memory: the anonymous memory of the child and all that it starts; over the cap
  the child dies, never the daemon or the machine. cgroups count file cache too,
  but the kernel drops that first.
- CPU: cores as a fraction, over any second or so.
- number of processes (cgroup methods).
- the child's end: it dies with the daemon, also when that is killed; what it
  leaves behind is killed with it, or when the next executor opens.

What is not covered:
- GPU memory, disk space, disk and network rates (bandwidth: `edge/link/throttle.py`).
- exactness of the watchdog: a tree can be over its memory cap for 50 ms, and its
  CPU share is kept by stopping and continuing it.
- shared memory and files in /dev/shm under the watchdog.
- the daemon's own use (about 105 MiB), except under `inherited`.

Verdict: keeps honest programs within their caps, exactly with a cgroup, closely
without. It is not a sandbox: no method here contains malicious code.
"""

import contextlib
import itertools
import math
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.config import ProfileConfig
from common.effective_limits import EffectiveLimits, effective_limits, usable_cores
from common.errors import CapError
from edge.limits import procfs
from edge.limits.backend import Backend, Caps, UnavailableError
from edge.limits.cgroup_v1 import CgroupV1
from edge.limits.cgroup_v2 import CgroupV2
from edge.limits.executor import Executor
from edge.limits.inherited import Inherited
from edge.limits.systemd_scope import SystemdScope
from edge.limits.watchdog import Watchdog

# `python -m edge.distill` with the smallest student on digits (torch 2.14, CUDA
# build): its anonymous memory peaks at 295 MiB, of which importing torch is 290; a
# cgroup or watchdog of 290 MiB kills it during the import, one of 300 MiB lets it
# finish. The rest is margin for larger images and other builds.
MINIMUM_MIB = 340

_numbers = itertools.count()
_unavailable: dict[str, str] = {}  # methods that are not tried again: why


@dataclass(frozen=True)
class MethodReport:
    """Whether a method of capping works here."""

    method: str
    works: bool
    hard: bool
    reason: str  # why it does not work


METHODS: dict[str, Callable[[str, Caps], Backend]] = {
    "cgroup-v2": CgroupV2,
    "cgroup-v1": CgroupV1,
    "systemd-scope": SystemdScope,
    "inherited": lambda name, caps: Inherited(caps),
    "soft": lambda name, caps: Watchdog(caps),
}


def open_executor(
    profile: ProfileConfig,
    *,
    name: str,
    method: str | None = None,
    minimum_mib: float = MINIMUM_MIB,
) -> Executor:
    """Open an executor with a profile's caps, by the first method that works.

    A profile that asks for more than this machine or container has gets what
    is available, with a note.

    Args:
        profile: the caps.
        name: of the node; part of the group's name.
        method: take this one and no other.
        minimum_mib: refuse a smaller memory cap.

    Raises:
        CapError: the cap is too small, or the method, or every method, fails here.
    """
    caps, notes = _available(profile, effective_limits())
    why = "".join(f" ({note})" for note in notes)
    given = f"memory cap {caps.memory_mib:.0f} MiB"
    require_memory(caps.memory_mib, given, minimum_mib, why=why)
    if method is not None and method not in METHODS:
        raise CapError(f"unknown cap method '{method}'; known: {', '.join(METHODS)}")
    _kill_orphans()
    reasons = []
    for candidate in [method] if method else METHODS:
        try:
            return _open_verified(candidate, name, caps, notes)
        except CapError as e:
            reasons.append(f"{candidate}: {e}")
    raise CapError(f"no cap method works here: {'; '.join(reasons)}")


def require_memory(
    memory_mib: float,
    given: str,
    minimum_mib: float = MINIMUM_MIB,
    *,
    why: str = "",
) -> None:
    """Refuse a memory cap in which nothing can be trained.

    Args:
        memory_mib: the cap.
        given: what messages call it: its option or key, with the value.
        minimum_mib: the least that is enough.
        why: ends the message.

    Raises:
        CapError: it is too small.
    """
    if memory_mib < minimum_mib:
        raise CapError(
            f"{given} is too small to import torch and train one batch; give at least "
            f"{minimum_mib:.0f} MiB{why}"
        )


def probe_methods(profile: ProfileConfig) -> list[MethodReport]:
    """Try every method with a profile's caps, best first."""
    caps, _ = _available(profile, effective_limits())
    reports = []
    for method in METHODS:
        try:
            with _open_verified(method, "probe", caps, []) as executor:
                reports.append(MethodReport(method, True, executor.hard, ""))
        except CapError as e:
            reports.append(MethodReport(method, False, False, str(e)))
    return reports


def child_environment(profile: ProfileConfig) -> dict[str, str]:
    """List the variables that keep a child's libraries within its cores.

    They must be set before torch is imported: a quota does not change what torch
    takes for the number of cores.
    """
    threads = str(num_threads(profile))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MALLOC_ARENA_MAX": "2",  # each arena of glibc keeps its own free memory
    }


def num_threads(profile: ProfileConfig) -> int:
    """Choose the number of compute threads: the usable cores, or the profile's."""
    return min(usable_cores(), math.ceil(profile.cpus))


def _available(
    profile: ProfileConfig, limits: EffectiveLimits
) -> tuple[Caps, list[str]]:
    """Reduce a profile to what is available; note what was reduced."""
    notes = []
    if profile.cpus > limits.cpus:
        notes.append(
            f"profile asks for {profile.cpus:g} cores, {limits.cpus_by} has "
            f"{limits.cpus:g}"
        )
    if profile.memory_mib > limits.memory_mib:
        notes.append(
            f"profile asks for {profile.memory_mib} MiB, {limits.memory_by} has "
            f"{limits.memory_mib:.0f}"
        )
    cpus = min(profile.cpus, limits.cpus)
    return Caps(cpus, min(profile.memory_mib, limits.memory_mib)), notes


def _open_verified(
    method: str, name: str, caps: Caps, notes: Sequence[str]
) -> Executor:
    """Make an executor and run `true` in it.

    Raises:
        CapError: the method does not work here.
    """
    group = f"takt.{name}.{procfs.owner_tag()}.{next(_numbers)}"
    if method in _unavailable:
        raise CapError(_unavailable[method])
    try:
        backend = METHODS[method](group, caps)
    except UnavailableError as e:
        _unavailable[method] = str(e)
        raise
    executor = Executor(backend, caps, name=group, notes=notes)
    try:
        if (status := executor.spawn(["true"]).wait(timeout=20)) != 0:
            raise CapError(f"`true` ended with status {status}")
    except subprocess.TimeoutExpired as e:
        executor.close()
        raise CapError(f"`true` did not end within {e.timeout:g} s") from e
    except BaseException:
        executor.close()
        raise
    return executor


def _kill_orphans() -> None:
    """Kill what ended daemons left running, by whatever method it was capped."""
    for pid, group in procfs.all_marked():
        owner = group.split(".")[2:3]
        if owner and procfs.is_dead(owner[0]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
