"""What is wrong with a machine, where a library's exception does not say it.

A full disk, an address space that is limited, a user without a home: none of them is
a bug of takt, though they come as exceptions that nobody expects at that place. Not
here: what takt checks before it begins (deploy.doctor), exit codes (exits.py).
"""

import errno

from common.effective_limits import address_space_mib
from common.errors import (
    CapError,
    ConfigError,
    StorageError,
    TaktError,
    is_out_of_memory,
)

# At 3.2 GiB of address space an evaluation ends by a crash, at 3.8 a training by Ray.
ADDRESS_SPACE_MIB = 8192
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NOT_MAPPED = ("failed to map segment", "cannot allocate memory", "start new thread")
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
    if is_out_of_memory(error) or any(words in text.lower() for words in _NOT_MAPPED):
        return _too_little_memory(error)
    return None


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


def _too_little_memory(error: BaseException) -> TaktError:
    limit_mib = address_space_mib()
    if limit_mib is None:
        return CapError(
            f"out of memory ({type(error).__name__}); end other programs, or take "
            "fewer images or a smaller model"
        )
    return CapError(
        f"out of memory: the address space is limited to {limit_mib:.0f} MiB; lift the "
        "limit with `ulimit -v unlimited`"
    )
