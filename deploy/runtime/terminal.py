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

PIPE_WIDTH = 120  # columns, where the output is no terminal


def make_console(file: TextIO | None = None) -> Console:
    """Open a console: colours and width of the terminal, plain lines elsewhere."""
    console = Console(file=file, soft_wrap=False)
    if not console.is_terminal:
        console = Console(file=file, width=PIPE_WIDTH, force_terminal=False)
    return console


@contextmanager
def quiet_output(log: Path) -> Iterator[Console]:
    """Send this process's stdout and stderr to `log`; yield the user's console."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(os.dup(kept[0]), "w", encoding="utf-8") as terminal:
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
