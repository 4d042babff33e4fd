"""Put this process inside its caps, then become the wanted program.

Run as a file by `edge.limits.executor`, never imported by it:
``python -I -S launcher.py SPEC PROGRAM [ARGUMENT ...]`` where SPEC is JSON with
the daemon's pid, a file descriptor for its report, the `cgroup.procs` files to
enter and the soft resource limits to set.

It exists because the alternative, `preexec_fn`, may deadlock in a daemon that
has threads. Standard library only, so that it starts in about 20 ms and leaves
nothing behind after `exec`. It does not supervise: once the program runs, this
file is gone.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def enter(parent: int, groups: list[str], limits: dict[str, int]) -> None:
    """Tie this process to its daemon and put it inside its caps.

    Raises:
        OSError: the daemon has ended, or a group or a limit is refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # The child dies with a daemon that is killed. Otherwise the daemon would restart
    # beside an orphan that still trains, and the two would exceed the cap.
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot ask to die with the daemon")
    if os.getppid() != parent:
        raise OSError(f"the daemon (pid {parent}) died before its child started")
    # Orphans among the child's own children stay in its tree, so stay counted.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for group in groups:
        write(group, str(os.getpid()))
    for name, soft in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        # The hard limit stays: an ordinary user could never raise it again.
        resource.setrlimit(kind, (soft, hard))
    # When memory is short, the kernel must kill the child and not the daemon.
    with contextlib.suppress(OSError):
        write("/proc/self/oom_score_adj", "1000")


def write(path: str, text: str) -> None:
    """Write a small file of the kernel.

    Raises:
        OSError: it is not there, or the kernel refuses the text.
    """
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def main() -> None:
    """Enter the caps and exec; report "+" or the error to the daemon."""
    spec = json.loads(sys.argv[1])
    program = sys.argv[2:]
    os.set_inheritable(spec["report"], False)
    try:
        enter(spec["parent"], spec["groups"], spec["limits"])
        os.write(spec["report"], b"+")
        os.execvp(program[0], program)
    except OSError as e:
        os.write(spec["report"], str(e).encode())
        os._exit(125)


if __name__ == "__main__":
    main()
