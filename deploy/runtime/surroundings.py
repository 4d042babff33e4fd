"""What is wrong with a machine, where a library's exception does not say it.

A full disk, limited addresses or processes, a user without a home: none of them is a
bug of takt, though they come as exceptions that nobody expects at that place. Not
here: what takt checks before it begins (deploy.doctor), exit codes (exits.py).
"""

import errno
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.effective_limits import address_space_mib, process_limit
from common.errors import (
    CapError,
    ClockError,
    ConfigError,
    StorageError,
    TaktError,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from common.config import NodeConfig

# At 3.2 GiB of address space an evaluation ends by a crash, at 3.8 a training by Ray.
ADDRESS_SPACE_MIB = 8192
# A local Ray has about 130 threads before its first worker, and each worker, gateway
# and controller has 30 to 40 (counted on two cores).
NUM_PROCESSES = 400
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NOT_MAPPED = ("failed to map segment", "cannot allocate memory")
_NO_THREAD = "start new thread"
_NO_HOME = ("getpwuid()", "Could not determine home directory")


def cause_of(error: BaseException) -> TaktError | None:
    """Say what an unexpected exception shows of the machine; None: it may be a bug."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return StorageError(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; free some "
            "space there"
        )
    if "No usable temporary directory" in text:
        return StorageError(
            "no folder for temporary files can be written; free some space in /tmp, or "
            "set TMPDIR to a folder of yours"
        )
    if any(words in text for words in _NO_HOME):
        return ConfigError(
            "this user has no home folder; set HOME to one that is yours"
        )
    if any(_is_refused_thread(each) for each in (error, error.__context__)):
        return _too_few_processes()
    if is_out_of_memory(error) or any(words in text.lower() for words in _NOT_MAPPED):
        return _too_little_memory(error)
    return None


def _is_refused_thread(error: BaseException | None) -> bool:
    """Tell a thread or process that the kernel refused to start."""
    return isinstance(error, BlockingIOError) or _NO_THREAD in str(error)


def require_memory_of_nodes(nodes: "Iterable[NodeConfig]") -> None:
    """Refuse nodes of a config that could train nothing, before the teacher is trained.

    Raises:
        CapError: a node's memory cap is too small.
    """
    from edge.limits import require_memory

    for node in nodes:
        cap = node.profile.memory_mib
        require_memory(cap, f"memory cap {cap} MiB of node '{node.name}'")


def before_install(now: float) -> str | None:
    """Say so where a clock (seconds since 1970) is behind the files of this takt."""
    if now >= Path(__file__).stat().st_mtime - 86400:
        return None
    return (
        f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC is before takt was "
        "installed"
    )


def require_clock() -> None:
    """Refuse to sign at a time that cannot be, as a machine without a battery has it.

    Raises:
        ClockError: the clock is behind the files of this takt.
    """
    wrong = before_install(time.time())
    if wrong is not None:
        raise ClockError(
            f"this machine's clock is wrong: {wrong}; set it (timedatectl set-ntp "
            "true) first: what is signed now would have ended long ago"
        )


def require_address_space() -> None:
    """Refuse a limited address space, in which torch and Ray end in strange ways.

    Raises:
        CapError: it is limited to less than they map.
    """
    limit_mib = address_space_mib()
    if limit_mib is not None and limit_mib < ADDRESS_SPACE_MIB:
        raise CapError(
            f"the address space is limited to {limit_mib:.0f} MiB, expected at least "
            f"{ADDRESS_SPACE_MIB}: torch and Ray map much more than they use; lift the "
            "limit with `ulimit -v unlimited`"
        )


def require_room_for_ray() -> None:
    """Refuse limits on addresses and processes below which Ray ends in strange ways.

    Raises:
        CapError: one is lower than what a run takes.
    """
    require_address_space()
    limit = process_limit()
    if limit is not None and limit[0] < NUM_PROCESSES:
        raise CapError(
            f"{limit[0]} processes and threads are allowed here (by {limit[1]}), "
            f"expected at least {NUM_PROCESSES}: Ray and its workers have hundreds of "
            "threads; raise that limit"
        )


def _too_few_processes() -> TaktError:
    """Say why this process may start no thread and no child."""
    limit_mib, limit = address_space_mib(), process_limit()
    if limit_mib is not None:  # a thread needs a stack
        return _limited_addresses(limit_mib)
    allowed = "" if limit is None else f": {limit[0]} are allowed (by {limit[1]})"
    return CapError(
        f"no further process or thread can be started here{allowed}; raise the limit, "
        "or end other programs"
    )


def _too_little_memory(error: BaseException) -> TaktError:
    limit_mib = address_space_mib()
    if limit_mib is None:
        return CapError(
            f"out of memory ({type(error).__name__}); end other programs, or take "
            "fewer images or a smaller model"
        )
    return _limited_addresses(limit_mib)


def _limited_addresses(limit_mib: float) -> TaktError:
    return CapError(
        f"out of memory: the address space is limited to {limit_mib:.0f} MiB; lift the "
        "limit with `ulimit -v unlimited`"
    )
