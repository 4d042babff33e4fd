"""Caps by a transient systemd scope: for a user with a session and cgroup v2.

systemd gives a delegated scope, and the leaf in it is made as in
edge/limits/cgroup_v2.py. An idle anchor process keeps the scope for as long as the
executor is open: a scope vanishes with its last process, and its counters with it.
Children enter through a temporary scope: only systemd may move a process out of
the login session; from there on the user may.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from common.cgroups import own_group
from common.errors import CapError
from edge.limits.backend import Caps, Launch, UnavailableError
from edge.limits.cgroup_v2 import CgroupV2
from edge.limits.process import start


class SystemdScope(CgroupV2):
    """Enforces the caps in a scope of the user's (for root: the system's) manager."""

    method: ClassVar[str] = "systemd-scope"

    def __init__(self, name: str, caps: Caps) -> None:
        """Start the scope and its anchor, and make the leaf.

        Raises:
            CapError: systemd is not there, or refuses, or delegates no controllers.
        """
        if not Path("/run/systemd/system").exists() or not shutil.which("systemd-run"):
            raise UnavailableError("systemd does not run here")
        if own_group("") is None:
            raise UnavailableError("no cgroup v2 hierarchy is mounted")
        # Delegated: else systemd ends the whole scope when one process runs out of
        # memory, the anchor with it.
        scope = (*_systemd_run(), f"--unit={name}", "--property=Delegate=yes", "--")
        self._anchor = start(
            Launch(prefix=scope, env=_bus()),
            ["sleep", "infinity"],
            dict(os.environ),
            subprocess.DEVNULL,
            subprocess.DEVNULL,
            None,
        )
        try:
            parent = own_group("", proc=Path(f"/proc/{self._anchor.pid}"))
            if parent is None:
                raise CapError("the scope that systemd made cannot be seen from here")
            self._make_leaf(parent, name, caps, movable={self._anchor.pid})
        except BaseException:
            self._end_anchor()
            raise

    def launch(self) -> Launch:
        """Leave the session by a temporary scope, then enter the capped leaf."""
        groups = super().launch().groups
        return Launch(prefix=(*_systemd_run(), "--"), groups=groups, env=_bus())

    def remove(self) -> None:
        """Remove the leaf and end the anchor; systemd removes the empty scope."""
        super().remove()
        self._end_anchor()

    def _end_anchor(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._anchor.kill()
        self._anchor.wait()


def _systemd_run() -> tuple[str, ...]:
    manager = () if os.getuid() == 0 else ("--user",)
    return ("systemd-run", *manager, "--scope", "--quiet", "--no-ask-password")


def _bus() -> dict[str, str]:
    """Name the user manager's socket folder, which cron and ssh commands may lack."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return {"XDG_RUNTIME_DIR": runtime}
