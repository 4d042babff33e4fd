"""Waiting for what another process or thread does sooner or later, never for luck."""

import subprocess
import time
from collections.abc import Callable

WAIT_S = 500.0  # for what takes seconds on an idle machine of one's own


def until(
    what: str | Callable[[], str],
    condition: Callable[[], bool],
    patience_s: float = WAIT_S,
    *,
    alive: subprocess.Popen[str] | None = None,
) -> None:
    """Look again and again, at last five times a second, until a condition holds.

    Args:
        what: is waited for, as a failure is to name it.
        condition: holds in the end.
        patience_s: after so many seconds the test has failed.
        alive: a process whose end is a failure too.
    """
    end, pause_s = time.monotonic() + patience_s, 0.02
    while not condition():
        said = what if isinstance(what, str) else what()
        assert alive is None or alive.poll() is None, f"ended before: {said}"
        assert time.monotonic() < end, f"waited in vain: {said}"
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.2)
