"""Ending a local Ray: its processes and its folder.

A Ray that is half started or half dead is ended like a healthy one: its processes are
found by their command lines and open files, not by what this process remembers. Not
here: starting it (`cloud.cluster.local`).
"""

import contextlib
import gc
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from cloud.cluster.asking import is_asked
from common.errors import ClusterError

_TERMINATE_S, _KILL_S = 3.0, 20.0  # from the first signal on


def processes_of(folder: Path) -> list[psutil.Process]:
    """List the processes that were started from a cluster's folder.

    By command line, or, where Ray has overwritten that, by open log files (on
    systems with /proc).
    """
    prefix, me = f"{folder}/", os.getpid()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == me or process.status() == psutil.STATUS_ZOMBIE:
                continue
            named = any(prefix in f"{part}/" for part in process.cmdline())
            if named or any(f.startswith(prefix) for f in _open_files(process.pid)):
                found.append(process)
    return found


def _open_files(pid: int) -> Iterator[str]:
    # psutil's own list leaks a file if the process ends meanwhile.
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(handle.readlink())


def end_cluster(folder: Path, logs_dir: Path | None) -> None:
    """Disconnect, end every process of the cluster, and remove its folder."""
    end_processes(folder)
    if logs_dir is not None:
        with contextlib.suppress(OSError):
            _move_logs(folder, logs_dir)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """Disconnect; terminate, then kill what is left of the cluster."""
    import ray

    if not is_asked():
        with contextlib.suppress(Exception):  # a half-started Ray may raise anything
            ray.shutdown()
    began = time.monotonic()
    while left := processes_of(folder):
        waited = time.monotonic() - began
        for process in left:
            with contextlib.suppress(psutil.Error):
                if waited < _TERMINATE_S:
                    process.terminate()
                else:
                    process.kill()
        psutil.wait_procs(left, timeout=0.5)
        if waited > _KILL_S:
            pids = ", ".join(str(p.pid) for p in left)
            raise ClusterError(
                f"processes {pids} of the local Ray did not end; kill them by hand"
            )
    _poll_handles()


def _poll_handles() -> None:
    """Poll every `Popen`, which sees then that its process has ended.

    A Ray that failed to start drops its own without having waited for them, and Python
    warns of each as still running (ResourceWarning).
    """
    for handle in gc.get_objects():
        # Not isinstance: it asks the object, and some of them warn when asked.
        if issubclass(type(handle), subprocess.Popen):
            handle.poll()


def _move_logs(folder: Path, logs_dir: Path) -> None:
    """Keep the logs of the session; there is one a cluster."""
    logs_dir.mkdir(parents=True, exist_ok=True)
    for session in folder.glob("r/session_2*"):
        for log in (session / "logs").iterdir():
            if log.is_file() and not log.is_symlink() and log.stat().st_size:
                shutil.copyfile(log, logs_dir / log.name)
