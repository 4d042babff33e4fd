"""A terminal of a chosen width, and what a program writes to it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence


def on_terminal(
    argv: Sequence[str], columns: int, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run a program on a terminal; return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 25, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how a terminal ends on Linux
        pass
    finally:
        os.close(ours)
    return process.wait(), written.decode()
