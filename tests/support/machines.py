"""Several machines made of this one: each with an address, a name, a core, processes.

A machine is a set of Linux namespaces (network, mounts, host name, processes) on a
switch that is another; nothing of it is seen from outside. When the test process
ends, however it ends, the kernel ends all of them and what runs in them. The disk is
shared, but for one folder. Needs root. Used by test_multi_node.py.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("ip", "nsenter", "setpriv", "taskset", "unshare")
NAMESPACES = ("--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc")
TIED = ("setpriv", "--pdeathsig", "KILL")  # dies with the process that started it
WAIT_S = 150.0

Done = subprocess.CompletedProcess[str]


def why_no_machines() -> str | None:
    """Say what is missing here to make machines; None where nothing is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)}: not installed (iproute2, util-linux)"
    if os.getuid() != 0:
        return "needs root, to make network namespaces"
    tried = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True)
    return tried.stderr.decode().strip() or None


class Machine:
    """One machine, on."""

    def __init__(self, name: str, private: Path, core: int | None = None) -> None:
        """Start it, with a folder that only it sees and, if it is told so, one core."""
        self.name = name
        self.address = ""
        self.port = ""
        self._cores = [] if core is None else ["taskset", "--cpu-list", str(core)]
        # The first process waits for its children: a machine's init.
        script = (
            f"hostname {name} && ip link set lo up && mount -t tmpfs tmpfs {private} "
            "&& echo on && sleep infinity & wait"
        )
        self._outside = subprocess.Popen(
            [*TIED, "unshare", *NAMESPACES, "--kill-child", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._outside.stdout is not None
        with self._outside.stdout as said:
            assert said.readline() == "on\n"
        (first,) = psutil.Process(self._outside.pid).children()
        self.pid = first.pid

    def command(self, *command: str) -> list[str]:
        """Turn a command of this machine's into one of ours."""
        enter = ["nsenter", "--target", str(self.pid), "--all"]
        return [*enter, *self._cores, *command]

    def run(self, *command: str, timeout_s: float = WAIT_S) -> str:
        """Run a command to its end; return what it wrote."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def processes(self) -> list[str]:
        """List the command lines of what runs on it."""
        return self.run("ps", "-eo", "args").splitlines()

    def power_off(self) -> None:
        """End all of it at once."""
        self._outside.kill()
        self._outside.wait()


class Site:
    """A switch and the machines on it."""

    def __init__(self, folder: Path) -> None:
        """Start the switch."""
        self.folder = folder
        self.switch = Machine("switch", folder)
        self.switch.run("ip", "link", "add", "bridge", "type", "bridge")
        self.switch.run("ip", "link", "set", "bridge", "up")
        self.machines: list[Machine] = []
        self._numbers = itertools.count(10)

    def add(self, name: str, core: int | None = None) -> Machine:
        """Start a machine and plug it in."""
        machine = Machine(name, self.folder, core)
        self.machines.append(machine)
        number = next(self._numbers)
        machine.address, machine.port = f"192.168.77.{number}", f"port{number}"
        there = ["peer", "name", "eth0", "netns", str(machine.pid)]
        link = ["ip", "link", "add", machine.port, "type", "veth", *there]
        # From outside: it takes a process id of the first namespace.
        subprocess.run(
            ["nsenter", "--target", str(self.switch.pid), "--net", *link], check=True
        )
        self.switch.run("ip", "link", "set", machine.port, "master", "bridge", "up")
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        return machine

    def cut_power(self, machine: Machine) -> None:
        """End a machine so that nobody hears of it: its connections just go silent."""
        self.switch.run("ip", "link", "set", machine.port, "down")
        machine.power_off()

    def close(self) -> None:
        """End all machines."""
        for machine in [*self.machines, self.switch]:
            machine.power_off()


@contextmanager
def site() -> Iterator[Site]:
    """Run a site; its private folder has a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    site = Site(folder)
    try:
        yield site
    finally:
        site.close()
        folder.rmdir()
