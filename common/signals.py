"""Which signals ask a takt process to end, and the exit code that each leads to.

SIGHUP comes when a terminal or a connection goes away and counts as SIGTERM. Where it
is ignored from the start, as below `nohup`, it stays ignored. Not here: what a process
does about them (deploy.runtime.exits, edge.daemon.node).
"""

import signal

from common.errors import TERMINATED, Interrupted


def stop_signals() -> tuple[signal.Signals, ...]:
    """Name the signals that end this process; asked before a handler is installed."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def exit_code_of(number: int) -> int:
    """Return the exit code of a process that such a signal has ended."""
    return Interrupted.exit_code if number == signal.SIGINT else TERMINATED
