"""Standard output and standard error when nobody reads them, or nothing fits any more.

A write to standard output that fails raises one of takt's own errors, whoever writes
(print, typer, rich): `ReaderGone` after `| head`, `OutputError` on a full device and
where the caller closed it (`>&-`), as in coreutils. Each thread hears of it once; what
it writes later is dropped, so that a clean-up may still print. Standard error is where
errors go, so one on it is nobody's concern. What the encoding lacks is written as an
escape. Not here: what is shown (terminal.py), the last line and the exit code
(exits.py).
"""

import contextlib
import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from common.errors import BROKEN_PIPE, StorageError, TaktError


class ReaderGone(TaktError):  # noqa: N818 - an end, not an error of anybody
    """The reader of the output went away."""

    exit_code = BROKEN_PIPE


class OutputError(StorageError):
    """Standard output cannot be written."""


class _Failure:
    """The first write that failed, and which threads know of it."""

    error: TaktError | None = None

    def __init__(self) -> None:
        self._told: set[int] = set()

    def tell(self) -> None:
        """Raise the error, if there is one, unless this thread knows of it."""
        if self.error is not None and threading.get_ident() not in self._told:
            self._told.add(threading.get_ident())
            raise self.error


_of_output = _Failure()


class _Output(io.TextIOWrapper):
    """Text to a descriptor; the first write that fails is the last one.

    Python puts back into its buffer what could not be written: it goes to /dev/null.
    """

    def __init__(
        self,
        descriptor: int,
        failure: _Failure | None,
        *,
        like: TextIO | None,
        line_buffering: bool,
        closes: bool,
    ) -> None:
        if like is not None:
            like.flush()
        super().__init__(
            io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=closes)),
            encoding="utf-8" if like is None else like.encoding,
            errors="backslashreplace",
            line_buffering=line_buffering,
            write_through=getattr(like, "write_through", False),
        )
        self._failure = failure
        self._descriptor = descriptor

    def write(self, text: str, /) -> int:
        """Write a text, or drop it."""
        with self._told():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        with self._told():
            super().flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an error of the descriptor into ours, which each thread gets once."""
        if self._failure is None:
            with contextlib.suppress(OSError):
                yield
            return
        self._failure.tell()
        try:
            # Some program that shares the terminal may have wanted it otherwise.
            if not os.get_blocking(self._descriptor):
                os.set_blocking(self._descriptor, True)
            yield
        except OSError as e:
            self._failure.error = self._failure.error or _error_of(e)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)
            self._failure.tell()


def _error_of(error: OSError) -> TaktError:
    if isinstance(error, BrokenPipeError):
        return ReaderGone("the reader of the output went away")
    if error.errno == errno.EBADF:
        return OutputError(
            "standard output is closed; send it to a file, or to /dev/null if nobody "
            "is to read it"
        )
    return OutputError(
        f"cannot write standard output: {error.strerror}; free some space there, or "
        "send the output elsewhere"
    )


def guard_output() -> None:
    """Replace `sys.stdout` and `sys.stderr`, also where the caller closed them."""
    for descriptor in (0, 1, 2):  # otherwise the next file opened would be taken for it
        try:
            os.fstat(descriptor)
        except OSError:
            # Not for writing where it is the output: a write is an error then.
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
    sys.stdout = open_output(1, like=sys.stdout)
    sys.stderr = _Output(2, None, like=sys.stderr, line_buffering=True, closes=False)


def open_output(
    descriptor: int, *, like: TextIO | None, closes: bool = False
) -> io.TextIOWrapper:
    """Open a descriptor that leads to the user, for text.

    Args:
        descriptor: open for writing.
        like: has the encoding; None: UTF-8.
        closes: whether closing the text closes the descriptor.
    """
    return _Output(
        descriptor,
        _of_output,
        like=like,
        line_buffering=os.isatty(descriptor),
        closes=closes,
    )


def finish_output() -> None:
    """Write what is buffered; raise what a thread or a library kept to itself.

    Raises:
        ReaderGone: nobody reads.
        OutputError: it cannot be written.
    """
    sys.stdout.flush()
    if _of_output.error is not None:
        raise _of_output.error
