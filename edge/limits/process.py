"""Start one child through the launcher, and read its CPU time before it is reaped.

Not here: what a cap is (`edge/limits/backend.py`), who watches the child
(`edge/limits/executor.py`).
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from common.errors import CapError
from common.interpreter import python
from edge.limits.backend import Launch

_LAUNCHER = Path(__file__).with_name("launcher.py")
# PR_SET_PDEATHSIG fires when the *thread* that started the child ends, so every
# child is started from this one, which lives as long as the daemon.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="takt-spawn")

Stream = int | IO[Any] | None


class CappedProcess(subprocess.Popen[bytes]):
    """A child inside its caps; `on_exit` is called when it is dead, not yet reaped."""

    on_exit: Callable[[], None] | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self.returncode is None and self.is_dead():
            self._notify()
        return super().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit and return its status.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if timeout is None:
            if self.returncode is None and self.is_dead(block=True):
                self._notify()
            return super().wait()
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(min(0.02, left))
        return status

    def is_dead(self, *, block: bool = False) -> bool:
        """Check whether it has ended, without reaping it."""
        flags = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # reaped by another thread meanwhile
            return True

    def _notify(self) -> None:
        if self.on_exit is not None:
            self.on_exit()


def start(
    launch: Launch,
    argv: Sequence[str],
    env: Mapping[str, str],
    stdout: Stream,
    stderr: Stream,
    cwd: Path | None,
) -> CappedProcess:
    """Start `argv` inside the caps of `launch`; return once it runs there.

    Raises:
        CapError: it could not be put inside its caps, or not be started.
    """
    read, write = os.pipe()
    spec = {
        "parent": os.getpid(),
        "report": write,
        "groups": launch.groups,
        "limits": dict(launch.limits),
    }
    launcher = python("-S", str(_LAUNCHER), json.dumps(spec))
    command = [*launch.prefix, *launcher, *argv]

    def popen() -> CappedProcess:
        return CappedProcess(
            command,
            env={**launch.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            pass_fds=(write,),
            start_new_session=True,  # so that the tree can be signalled at once
        )

    try:
        process = _spawner.submit(popen).result()
    except OSError as e:
        os.close(read)
        raise CapError(f"cannot start {command[0]}: {e}") from e
    finally:
        os.close(write)
    with os.fdopen(read, "rb") as pipe:
        report = pipe.read().decode()  # ends at exec, which closes its copy
    if report == "+":
        return process
    status = process.wait()
    reason = report.removeprefix("+") or f"{command[0]} ended with status {status}"
    raise CapError(f"cannot start {argv[0]} inside its caps: {reason}")
