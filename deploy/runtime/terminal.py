"""The user's terminal, kept clean while libraries run.

Ray, torch and gRPC write to stdout and stderr at any time, some from C++. For
the time of a run both go to the run's log, at the level of file descriptors, and
the returned console alone reaches the user. Not here: what is shown on it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from common.text import printable
from deploy.runtime.output import open_output

PIPE_WIDTH = 120  # columns, where the output is no terminal
_HEIGHT = 25  # of no effect here, but rich takes a width only beside one


def make_console(file: TextIO | None = None) -> Console:
    """Open a console: colours and width of the terminal, plain lines elsewhere.

    FORCE_COLOR gives colours elsewhere too, as CI systems like them; lines that move
    stay a terminal's. A terminal that calls itself dumb keeps its width.
    """
    stream = file or sys.stdout
    if not stream.isatty():
        colours = os.environ.get("FORCE_COLOR")
        return Console(
            file=file,
            width=PIPE_WIDTH,
            height=_HEIGHT,
            force_terminal=False,
            color_system="standard" if colours else "auto",
        )
    console = Console(file=file, soft_wrap=False)
    if console.is_dumb_terminal:  # of which rich believes that it has 80 columns
        width = _columns(stream)
        console = Console(file=file, soft_wrap=False, width=width, height=_HEIGHT)
    return console


def _columns(terminal: TextIO) -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    return os.get_terminal_size(terminal.fileno()).columns or 80


def plain(text: str) -> str:
    """Make text from elsewhere safe to print: it neither steers a terminal nor styles.

    A name in a result, a path or a cell of a table may hold what rich takes for markup,
    and control characters, which rich lets through.
    """
    return escape(printable(text))


@contextmanager
def quiet_output(log: Path) -> Iterator[Console]:
    """Send this process's stdout and stderr to `log`; yield the user's console."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        with open_output(os.dup(kept[0]), like=sys.stdout, closes=True) as terminal:
            os.dup2(target, 1)
            os.dup2(target, 2)
            yield make_console(terminal)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for handle in (*kept, target):
            os.close(handle)
