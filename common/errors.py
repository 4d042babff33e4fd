"""The errors that takt raises on purpose, and every exit code of its processes.

    TaktError                      1   something went wrong that takt understands
    +-- ConfigError                2   a config key, value or option is wrong
    +-- DataError                  3   a data set is missing, damaged or unusable
    +-- CapError                   4   a resource cap cannot be held or is too small
    |   +-- MemoryCapError             the child went over its memory cap twice
    +-- LinkError                  5   the gateway cannot be reached or broke off
    +-- IdentityError              6   a certificate, key or allow-list says no
    |   +-- ClockError            12   a certificate is not valid at this clock's time
    +-- TrustError                 7   a release was refused (signature, digest, age)
    +-- StorageError               8   no such file, disk full, no permission, damage
    +-- AddressError               9   a port is taken or an address is not ours
    +-- ClusterError              10   Ray did not start, or a job failed for good
    +-- StudentError              11   the student is not fit to be promoted, or missing
    Interrupted                  130   Ctrl-C (143 for SIGTERM and SIGHUP)

Every message states what was expected, what was found and what to do, in one
line. The command line prints that line and exits with the class's code; a
traceback therefore always means a bug in takt. Codes that belong to no error class
are the constants behind the classes; `exit_codes` lists all of them.
"""

import signal
from typing import Any, ClassVar, cast


class TaktError(Exception):
    """Something went wrong that takt understands."""

    exit_code: ClassVar[int] = 1


class ConfigError(TaktError):
    """A config key, value or option is wrong, or the file of one cannot be read."""

    exit_code = 2


class DataError(TaktError):
    """A data set, or a folder of images, is missing, damaged or unusable."""

    exit_code = 3


class CapError(TaktError):
    """A resource cap cannot be held, or is too small to start with."""

    exit_code = 4


class MemoryCapError(CapError):
    """The distillation went over its memory cap, also with a halved batch."""


class LinkError(TaktError):
    """The gateway cannot be reached, or broke off for longer than allowed."""

    exit_code = 5


class IdentityError(TaktError):
    """A certificate, a key or the allow-list says no."""

    exit_code = 6


class ClockError(IdentityError):
    """Certificates and this machine's clock do not agree, which may mend by itself."""

    exit_code = 12


class TrustError(TaktError):
    """A release was refused: signature, digest, length, age or fingerprint."""

    exit_code = 7


class StorageError(TaktError):
    """A file or folder is not there or not writable, a disk full, or state damaged."""

    exit_code = 8


class AddressError(TaktError):
    """A port is taken, or an address cannot be bound."""

    exit_code = 9


class ClusterError(TaktError):
    """Ray did not start, or a job on it failed for good."""

    exit_code = 10


class StudentError(TaktError):
    """A student is not fit to be promoted (constant, say), or there is none yet."""

    exit_code = 11


class Interrupted(TaktError):  # noqa: N818 - not an error of anybody
    """The user or the system asked to stop."""

    exit_code = 130


BUG = 70  # EX_SOFTWARE of sysexits.h
BROKEN_PIPE = 128 + signal.SIGPIPE  # 141
TERMINATED = 128 + signal.SIGTERM  # 143
OUT_OF_MEMORY = MemoryCapError.exit_code  # of a child; its parent halves the batch

# Of the allocators of C++ and of torch, and of CUDA's; a test provokes them.
OUT_OF_MEMORY_TEXTS = ("bad_alloc", "can't allocate", "out of memory")
# oneDNN gives no reason. Kernels that lie channels last are reordered within it, so it
# is there that little memory shows first; models were checked to run before.
ONEDNN_FAILED = "could not create a primitive"


def public_errors(kind: type[TaktError] = TaktError) -> list[type[TaktError]]:
    """List an error class and those below it that this module defines, depth first."""
    found = [kind]
    for child in kind.__subclasses__():
        if child.__module__ == __name__:
            found += public_errors(child)
    return found


def error_of(code: int) -> type[TaktError]:
    """Return the error class of another takt process's exit code."""
    for kind in public_errors():
        if kind.exit_code == code:
            return kind
    return TaktError


def exit_codes() -> list[tuple[int, str, str]]:
    """List (code, name, meaning) of every way in which a takt process can end."""
    table = [
        (0, "-", "Done."),
        (BUG, "-", "A bug in takt; the line names the file to report."),
        (Interrupted.exit_code, "-", "Stopped by Ctrl-C (SIGINT)."),
        (BROKEN_PIPE, "-", "The reader of the output went away (SIGPIPE)."),
        (TERMINATED, "-", "Stopped by SIGTERM, or by SIGHUP: the terminal closed."),
    ]
    for kind in public_errors():
        if kind is not Interrupted:
            meaning = (kind.__doc__ or "").splitlines()[0]
            table.append((kind.exit_code, kind.__name__, meaning))
    return sorted(table, key=lambda row: row[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed, in Python or in torch, from other errors."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(word in text for word in (*OUT_OF_MEMORY_TEXTS, ONEDNN_FAILED))


def one_line(error: BaseException, limit: int = 200) -> str:
    """Shorten a library's message for the inside of one of ours."""
    text = str(error)
    if hasattr(error, "error_count"):  # of pydantic: a paragraph with its own words
        from common.explain import explain

        text = explain(cast(Any, error)).text
    return " ".join(text.split())[:limit] or type(error).__name__
