"""Reads from `/proc` the members, memory and CPU time of a tree of processes.

Plain reads of the files that are needed, because the executor's thread makes them many
times a second: psutil scans every process of the machine to find children, and takes
ten times as long to read one. Linux only. It changes nothing and kills nothing.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "TAKT_EXECUTOR"  # environment variable of a capped process and its children
_VFORK_S = 1.0  # a child of vfork calls exec within milliseconds
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()


class Memory(NamedTuple):
    """One process's memory, in MiB."""

    anonymous_mib: float  # RssAnon + VmSwap: its own pages, without file maps
    data_mib: float  # VmData: what RLIMIT_DATA counts, touched or not


def memory(pid: int) -> Memory | None:
    """Read a process's memory; None when it is gone or a zombie."""
    text = _read(f"/proc/{pid}/status")
    anonymous = _kib(text, b"RssAnon:")
    if anonymous is None:
        return None
    swapped, data = _kib(text, b"VmSwap:"), _kib(text, b"VmData:")
    return Memory((anonymous + (swapped or 0)) / 1024, (data or 0) / 1024)


def total_anonymous_mib(
    memory: Mapping[int, Memory], *, age_s: Callable[[int], float] | None = None
) -> float:
    """Sum the anonymous memory of several processes, shared pages once.

    After a fork both processes count all pages that they still share; their
    proportional share (PSS) counts each once, but costs a walk of the page
    tables. A child of vfork that has not yet called exec *is* its parent's
    memory, which shows in equal numbers, and lasts no second.

    Args:
        memory: of each process.
        age_s: tells a process's age; None: reads it.
    """
    age_s = age_s or _age_s
    if len(memory) == 1:
        return next(iter(memory.values())).anonymous_mib
    total, seen = 0.0, set()
    for pid, found in memory.items():
        if found in seen and age_s(pid) < _VFORK_S:
            continue
        seen.add(found)
        text = _read(f"/proc/{pid}/smaps_rollup")
        share = _kib(text, b"Pss_Anon:")  # since Linux 5.9
        if share is not None:
            total += (share + (_kib(text, b"SwapPss:") or 0)) / 1024
        elif text or _has_memory(pid):
            total += found.anonymous_mib
        # Else it has ended since it was read, and what it shared is its parent's.
    return total


def _has_memory(pid: int) -> bool:
    return _kib(_read(f"/proc/{pid}/status"), b"RssAnon:") is not None


def cpu_s(pid: int) -> float:
    """Read a process's CPU-seconds with those of its reaped children; 0 when gone."""
    return own_cpu_s(pid) + reaped_cpu_s(pid)


def own_cpu_s(pid: int) -> float:
    """Read a process's own CPU-seconds, to the nanosecond; 0 when gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's CPUCLOCK_SCHED
    except OSError:
        return 0.0


def reaped_cpu_s(pid: int) -> float:
    """Read the CPU-seconds of a process's reaped children (10 ms resolution)."""
    stat = _stat(pid)
    return 0.0 if stat is None else (int(stat[13]) + int(stat[14])) * _TICK_S


def _age_s(pid: int) -> float:
    """Read how long ago a process started (10 ms resolution); 0 when gone."""
    started = _started(pid)
    if started is None:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) * _TICK_S


def is_alive(pid: int) -> bool:
    """Check whether a process runs, sleeps or is stopped: not gone, not a zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in (b"Z", b"X")


def tree(root: int) -> list[int]:
    """List a process and its descendants, the root first."""
    if not _LISTS_CHILDREN:  # a kernel without CONFIG_PROC_CHILDREN
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(root).children(recursive=True)
            return [root, *(child.pid for child in children)]
        return [root]
    members = [root]
    for pid in members:  # grows while it is walked
        members.extend(child for child in _children(pid) if child not in members)
    return members


def marked(executor: str) -> list[int]:
    """Find the processes that an executor started, wherever they are now."""
    return [pid for pid, name in all_marked() if name == executor]


def all_marked() -> Iterator[tuple[int, str]]:
    """Find every capped process of this user: pid and name of its executor.

    A scan of all processes: for closing and cleaning, not for sampling.
    """
    prefix = f"{MARK}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        for variable in _read(f"{entry}/environ", whole=True).split(b"\0"):
            if variable.startswith(prefix):
                yield int(entry.name), variable[len(prefix) :].decode()


def owner_tag() -> str:
    """Name this daemon so that no other process, now or later, has the same name."""
    pid = os.getpid()
    return f"{_pid_namespace()}-{pid}-{_started(pid)}"


def is_dead(owner: str) -> bool:
    """Check whether the daemon of this tag has surely ended.

    False for a tag of another pid namespace: its daemon cannot be seen from here.
    """
    namespace, _, rest = owner.partition("-")
    pid, _, started = rest.partition("-")
    return (
        namespace == _pid_namespace()
        and pid.isdigit()
        and _started(int(pid)) != started
    )


def _started(pid: int) -> str | None:
    """Read when a process started, in ticks since boot."""
    stat = _stat(pid)
    return None if stat is None else stat[19].decode()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _stat(pid: int) -> list[bytes] | None:
    """Read the fields of /proc/PID/stat from the third (state) on."""
    # The second, the name, may itself contain spaces and brackets.
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split() or None


def _children(pid: int) -> list[int]:
    children: list[int] = []
    # Suppressed: the process has ended meanwhile.
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as tasks:
        for task in tasks:
            found = _read(f"{task.path}/children", whole=True)
            children.extend(int(child) for child in found.split())
    return children


def _kib(text: bytes, key: bytes) -> int | None:
    """Read the number after a key of /proc/PID/status or smaps_rollup."""
    at = text.find(b"\n" + key)
    return None if at < 0 else int(text[at + len(key) + 1 :].split(maxsplit=1)[0])


def _read(path: str, *, whole: bool = False) -> bytes:
    """Read a file of /proc; empty when the process is gone or not ours."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = os.read(file, 8192)
        while whole and (more := os.read(file, 65536)):
            data += more
        return data
    except OSError:  # gone between open and read
        return b""
    finally:
        os.close(file)
