"""How a `takt` process ends: signals, its last line, and what a bug leaves behind.

The one place that turns an exception into a line on stderr and a code. SIGINT, SIGTERM
and SIGHUP all become a KeyboardInterrupt, so that every clean-up is the same; which of
them it was decides the code. Not here: the clean-ups themselves, which signals these
are (common.signals), and the codes (common.errors).
"""

import contextlib
import math
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from common.errors import BUG, ConfigError, Interrupted, TaktError
from common.signals import exit_code_of, stop_signals
from common.text import printable
from deploy.runtime.output import ReaderGone, finish_output, guard_output

CLEAN_UP_S = 30.0  # more than a clean-up takes


class BugError(TaktError):
    """Something happened that takt does not expect: a bug."""

    exit_code = BUG


class Signals:
    """Turns the first signal that asks to stop into a KeyboardInterrupt.

    For `CLEAN_UP_S` later ones are ignored on purpose: a second Ctrl-C would cut the
    clean-up short and leave processes behind. After that they count again, in case
    a library swallowed the first. Ray puts handlers of its
    own in the place of these, so `received` asks the interpreter's wake-up pipe.
    """

    def __init__(self) -> None:
        """Install the handlers; only the main thread can."""
        self._numbers = stop_signals()
        self._raised_at = -math.inf
        self._first: int | None = None
        self._pipe, wakeup = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self.arm()

    def arm(self) -> None:
        """Put the handlers (back) in place."""
        for number in self._numbers:
            signal.signal(number, self._handle)

    @property
    def received(self) -> int | None:
        """Return the first of the signals that came, whoever handled it."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._pipe, 4096):
                if self._first is None and number in self._numbers:
                    self._first = number
        return self._first

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised_at > CLEAN_UP_S:
            self._raised_at = now
            raise KeyboardInterrupt


_installed: list[Signals] = []


def arm_signals() -> None:
    """Take the signals back from a library that has taken them for itself.

    Raises:
        KeyboardInterrupt: one came meanwhile; an exception that a handler raises in the
            middle of a library's callback is lost.
    """
    for signals in _installed:
        signals.arm()
        if signals.received is not None:
            raise KeyboardInterrupt


def interrupt_code() -> int | None:
    """Return the exit code of an interrupted process; None: it was not interrupted."""
    for signals in _installed:
        if signals.received is not None:
            return exit_code_of(signals.received)
    return None


def run(verb: Callable[[], object]) -> int:
    """Run a verb to its end and return the exit code, with one line if it is not 0."""
    guard_output()
    signals = Signals()
    _installed.append(signals)
    code: object = 0
    detail = ""
    try:
        code = verb()
        finish_output()
        # A verb that returns has dealt with its signals, as the node's daemon does.
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt as e:
        code = Interrupted.exit_code
        detail = str(e)
    except SystemExit as e:  # Ray's way to end a process that was sent a signal
        code = e.code
    except TaktError as e:
        # Otherwise the clean-up raised it, or nobody is there to read.
        if signals.received is None and not isinstance(e, ReaderGone):
            _print_line(str(e))
        code = e.exit_code
    except Exception as e:
        if hasattr(e, "format_message"):  # of typer's own errors
            code = _usage_error(e)
        elif signals.received is None:
            found = explain(e)
            _print_line(str(found))
            code = found.exit_code
    if signals.received is not None:
        _print_line(f"stopped by {signal.Signals(signals.received).name}{detail}")
        code = exit_code_of(signals.received)
    return code if isinstance(code, int) else 0


def leave(code: int) -> NoReturn:
    """End this process with a code.

    At once where other threads are at work still, or Ray's core was loaded: a thread
    may wait for a Ray that has gone, for a minute or for good, and the interpreter
    would wait for it; and the core may crash while the interpreter takes it down.
    """
    if threading.active_count() == 1 and "ray" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the code says already what failed
            stream.flush()
    os._exit(code)


def _usage_error(error: Any) -> int:
    """Print what is wrong with a command line; return the exit code."""
    message = error.format_message()
    if message.startswith("Usage:"):  # a group without a verb: its whole help
        print(message, file=sys.stderr)
        return ConfigError.exit_code
    # Imported here: most commands are typed without a mistake.
    from pydantic import ValidationError

    from common.explain import expectation

    cause = error.__cause__
    if isinstance(cause, ValidationError):  # typer shows pydantic's text
        first = cause.errors(include_url=False)[0]
        message = f"{error.param.opts[0]} {first['input']}: {expectation(first)}"
    verb = error.ctx.command_path if error.ctx is not None else "takt"
    if verb == "takt" and "command 'test'" in message:
        message = "No such command 'test' (it is of a clone: ./takt test)"
    if message.endswith("?"):  # "Did you mean 'train'?"
        _print_line(f"{message} See {verb} --help")
    else:
        _print_line(f"{message.rstrip('.')}; see {verb} --help")
    return ConfigError.exit_code


def explain(error: Exception) -> TaktError:
    """Tell what is wrong with this machine from a bug, which is recorded."""
    from deploy.runtime.surroundings import cause_of  # only now: it loads a lot

    with contextlib.suppress(OSError):
        cause = cause_of(error)
        if cause is not None:
            return cause
    folder = "/tmp"
    with contextlib.suppress(OSError):  # there is none that can be written
        folder = tempfile.gettempdir()
    return record_bug(error, Path(folder))


def record_bug(error: BaseException, folder: Path) -> BugError:
    """Write the traceback to a new file in `folder` and name it in an error."""
    begin = f"takt-bug-{time.strftime('%Y%m%d-%H%M%S')}-"
    text = "".join(traceback.format_exception(error))
    try:
        # A new file of a name that nobody can foresee, for this user alone: the folder
        # is everybody's, and a traceback may hold what is not.
        handle, path = tempfile.mkstemp(".log", begin, folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        where = f"the traceback is in {path}"
    except OSError as e:
        where = f"its traceback could not be written ({e.strerror})"
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return BugError(f"a bug in takt: {what}; {where}, please report it")


def _print_line(text: str) -> None:
    # Names of files are in it, which may hold a terminal's control characters.
    print(f"takt: {printable(' '.join(text.split()))}", file=sys.stderr)
