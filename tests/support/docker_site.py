"""A compose project of its own on a Docker engine: images, containers, faults.

Everything that it starts is removed when it closes; what a killed test run left is
removed by the next. Used by test_docker.py and test_compose.py.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "containers" / "compose.yaml"
NODES = ("sensor", "camera", "hub")
KILLED = 128 + 9  # exit code
WAIT_S = 900.0
PREFIX = "takt-test-"

Done = subprocess.CompletedProcess[str]


def docker(*arguments: str, timeout_s: float = 120) -> Done:
    """Call docker and hand back what it said, whatever its exit code."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def compose_tools() -> list[list[str]]:
    """Name the compose tools that are installed here, the present one first."""
    tools = []
    if shutil.which("docker") and docker("compose", "version").returncode == 0:
        tools.append(["docker", "compose"])
    if shutil.which("docker-compose"):
        tools.append(["docker-compose"])
    return tools


class Project:
    """One compose project."""

    def __init__(
        self, tool: Sequence[str], runs: Path, environment: Mapping[str, str]
    ) -> None:
        """Name it, with this process's id; nothing is started."""
        self.tool = tuple(tool)
        self.name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
        self.runs = runs
        self.environment = {**os.environ, **environment, "TAKT_RUNS_DIR": str(runs)}

    def compose(self, *arguments: str, timeout_s: float = 900, **more: str) -> Done:
        """Call the compose tool on the shipped file."""
        command = [*self.tool, "-p", self.name, "-f", str(COMPOSE), *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**self.environment, **more},
        )

    def container(self, service: str) -> str:
        """Name a service's container; the two tools join the words differently."""
        between = "_" if self.tool[0] == "docker-compose" else "-"
        return between.join((self.name, service, "1"))

    def execute(self, service: str, *command: str, timeout_s: float = 180) -> Done:
        """Run a command in a service's container."""
        name = self.container(service)
        return docker("exec", name, *command, timeout_s=timeout_s)

    def python(self, service: str, code: str) -> str:
        """Run some Python in a service's container; return what it prints."""
        done = self.execute(service, "python3", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """Read what the engine says of a service's container."""
        done = docker("inspect", self.container(service))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def address(self, service: str) -> str:
        """Read a container's address on its first network."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def status(self, node: str) -> dict[str, Any]:
        """Read what a node's daemon says of itself; empty while it cannot be read."""
        done = self.execute(node, "cat", "/var/lib/takt/status.json")
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {}
        return found

    def reports(self, version: int) -> dict[str, dict[str, Any]]:
        """Read the nodes' reports on a release, the last of each."""
        code = (
            "import json; from pathlib import Path\n"
            "from google.protobuf.json_format import MessageToDict\n"
            "from cloud.fleet.database import Fleet, sqlite_url\n"
            "fleet = Fleet(sqlite_url(Path('/storage/fleet.sqlite')))\n"
            f"rows = fleet.reports(version={version})\n"
            "told = dict(preserving_proto_field_name=True)\n"
            "print(json.dumps({r.node: MessageToDict(r.report, **told) for r in rows}))"
        )
        found: dict[str, dict[str, Any]] = json.loads(self.python("head", code))
        return found

    def publish(self, options: str) -> int:
        """Publish a further release; return its version."""
        command = ["cloud", "publish", "--force", "--config", "digits"]
        command += ["--storage", "/storage", *shlex.split(options)]
        done = self.execute("head", "takt", *command)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.partition("is at version ")[2].partition(":")[0])

    def kill(self, service: str, words: str) -> None:
        """Kill -9 the process of a container whose command line has these words.

        If it is the container's own, the container ends, and this command with it.
        """
        code = (
            "import os, signal\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try: line = open(f'/proc/{pid}/cmdline').read().replace('\\0', ' ')\n"
            "    except OSError: continue\n"
            f"    if {words!r} in line and int(pid) not in (1, os.getpid()):\n"
            "        print(pid, flush=True); os.kill(int(pid), signal.SIGKILL)\n"
        )
        done = self.execute(service, "python3", "-c", code)
        killed = done.stdout or done.returncode == KILLED
        assert killed, f"no process of {service} has {words!r}: {done.stderr}"

    def logs(self, service: str) -> str:
        """Read what a container wrote."""
        done = docker("logs", self.container(service))
        return done.stdout + done.stderr

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("--profile", "compare", "down", "-v", "--timeout", "5")
        remove(self.name)


CONTAINERS = ("ps", "-aq")
LISTED = {  # what a project may leave, and how that is removed
    CONTAINERS: ("rm", "-fv"),
    ("network", "ls", "-q"): ("network", "rm"),
    ("volume", "ls", "-q"): ("volume", "rm", "-f"),
}


def left_of(project: str, *kinds: tuple[str, ...]) -> list[str]:
    """List a project's containers, networks and volumes."""
    label = ("--filter", f"label=com.docker.compose.project={project}")
    kinds = kinds or tuple(LISTED)
    return [name for kind in kinds for name in docker(*kind, *label).stdout.split()]


def remove(project: str) -> None:
    """Remove whatever a project has left, whichever way it ended."""
    for kind, command in LISTED.items():
        if found := left_of(project, kind):
            docker(*command, *found)


def remove_orphans() -> None:
    """Remove the projects of test runs whose process is gone."""
    what = ("--format", '{{.Label "com.docker.compose.project"}}')
    names = {
        name
        for kind in (("ps", "-a"), ("network", "ls"), ("volume", "ls"))
        for name in docker(*kind, *what).stdout.split()
        if name.startswith(PREFIX)
    }
    for name in names:
        pid = name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            remove(name)
