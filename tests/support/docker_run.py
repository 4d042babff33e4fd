"""The first run of the compose file, on images made here, and what tests do to it.

The base image is made first, unless TAKT_BASE_IMAGE names one. The run is of the
digits config with fewer epochs, a fourth node, a network of its own for the camera,
and deltas in its releases, so that a slow pull has several files. Used by
test_docker.py.
"""

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker_site import (
    NODES,
    ROOT,
    WAIT_S,
    Project,
    compose_tools,
    docker,
    remove_orphans,
)
from waiting import until

from common.config import RunConfig
from deploy.runtime.settings import load_run_config, parse_assignments

OPTIONS = """
    --set teacher.epochs=4 --set evaluation.autoattack_images=40
    --set nodes.camera.profile.delay_ms=20
    --set 'nodes.camera.profile.cuts=[{after_s=2,for_s=3}]'
    --set 'knowledge.contents=["soft_labels","deltas"]'
"""
OPTIONS = " ".join(OPTIONS.split())
FOURTH = "sensor-2"
KIB = 1024
REFRESHED_BYTES = 2 * KIB  # of timestamps that are read again: 0.6 KiB each
ROOM_GIB = 30  # for two images of 7 GB that share most of it, made from nothing


def run_config() -> RunConfig:
    """The config that the containers run."""
    words = shlex.split(OPTIONS)[1::2]
    return load_run_config("digits", {**parse_assignments(words), "num_nodes": 4})[0]


@dataclass
class Seen:
    """The project after its first run, and what that run said."""

    project: Project
    code: int
    output: str
    result: dict[str, Any]
    folder: Path


def base_image() -> dict[str, str]:
    """Make a base image."""
    done = subprocess.run(
        [ROOT / "deploy" / "containers" / "local-base.sh"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return {"TAKT_BASE_IMAGE": done.stdout.splitlines()[-1]}


def build(project: Project) -> None:
    """Build both images; once more where the package index failed."""
    for _ in range(2):
        built = project.compose("build", "head", "sensor", timeout_s=2400)
        if built.returncode == 0:
            return
    pytest.fail(built.stdout[-2000:] + built.stderr[-2000:])


def has_room() -> bool:
    """Say whether the engine's disk, if it is one of here, can take the images."""
    folder = Path(docker("info", "--format", "{{.DockerRootDir}}").stdout.strip())
    return not folder.is_dir() or shutil.disk_usage(folder).free > ROOM_GIB * KIB**3


@contextmanager
def first_run(runs: Path) -> Iterator[Seen]:
    """Build the images and run `report`; at the end remove all but the images."""
    tools = compose_tools()
    if not tools or docker("info").returncode != 0:
        pytest.skip("no Docker engine with a compose tool answers")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up
    remove_orphans()
    project = Project(tools[0], runs, {"TAKT_OPTIONS": OPTIONS, "TAKT_NODES": "4"})
    image = project.environment.get("TAKT_CLOUD_IMAGE", "takt-cloud")
    if not docker("images", "-q", image).stdout and not has_room():
        pytest.skip(f"the Docker engine has less than {ROOM_GIB} GiB of room")
    if "TAKT_BASE_IMAGE" not in project.environment:
        project.environment |= base_image()
    build(project)
    try:
        done = project.compose("run", "-T", "--rm", "report", timeout_s=2400)
        found = sorted(runs.glob("*/result.json"))
        assert found, done.stdout[-3000:] + done.stderr[-3000:]
        result = json.loads(found[-1].read_text())
        yield Seen(project, done.returncode, done.stdout, result, found[-1].parent)
    finally:
        project.down()


def all_done(project: Project, version: int) -> None:
    """Wait until every node has handled a release."""
    for node in NODES:
        in_state(project, node, version, "idle")


def in_state(project: Project, node: str, version: int, *states: str) -> None:
    def there() -> bool:
        status = project.status(node)
        return status.get("version") == version and status.get("state") in states

    until(f"{node} is {' or '.join(states)}", there, WAIT_S)


def in_volumes(project: Project, node: str, command: str) -> None:
    """Change what a node finds when it starts again."""
    done = docker(
        *("run", "--rm", "--network", "none", "--entrypoint", "sh"),
        *("-v", f"{project.name}_{node}-join:/etc/takt"),
        *("-v", f"{project.name}_{node}-state:/var/lib/takt"),
        *(project.inspect(node)["Config"]["Image"], "-c", command),
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def pulling_slowly(project: Project, node: str) -> Iterator[int]:
    """Have a node pull a new release anew at 2 KiB/s: about 20 s; its version.

    The engine starts it, not the compose tool: version 2 starts what a service
    depends on too, and the bootstrap would write the node's config afresh.
    """
    config = "/etc/takt/edge.toml"
    slower = f"cp {config} /etc/takt/kept; rm -rf /var/lib/takt/cache/*; "
    slower += f"sed -i 's/^bandwidth_kib_s.*/bandwidth_kib_s = 2/' {config}"
    assert project.compose("stop", node).returncode == 0
    in_volumes(project, node, slower)
    version = project.publish(OPTIONS)
    assert docker("start", project.container(node)).returncode == 0
    in_state(project, node, version, "pulling")
    until("its first files", lambda: num_pulled(project, node) > 0, WAIT_S)
    try:
        yield version
    finally:
        in_volumes(project, node, f"mv /etc/takt/kept {config}")
        assert project.compose("restart", node).returncode == 0


def num_pulled(project: Project, node: str) -> int:
    """Count the files that a node has the whole of."""
    find = ("find", "/var/lib/takt/cache", "-type", "f", "-not", "-name", "*.part")
    return len(project.execute(node, *find).stdout.split())


def assert_pulled_once(project: Project, node: str, version: int) -> None:
    """Hold what a node pulled since it began anew to the files that it now has."""
    files, metadata = (stored(project, node, name) for name in ("cache", "metadata"))
    pulled = int(project.reports(version)[node]["pulled_bytes"])
    least, most = files, files + metadata + REFRESHED_BYTES
    assert 0 < least <= pulled < most, (files, metadata, pulled)


def stored(project: Project, node: str, folder: str) -> int:
    """Count the bytes of the files in a folder of a node's state."""
    sizes = ("find", f"/var/lib/takt/{folder}", "-type", "f", "-printf", r"%s\n")
    return sum(int(size) for size in project.execute(node, *sizes).stdout.split())


def reached_from(
    project: Project, service: str, targets: list[tuple[str, int]]
) -> list[bool]:
    """Try to connect to each target from within a container."""
    code = (
        "import json, socket\n"
        "def reaches(target):\n"
        "    try: socket.create_connection(target, 3).close()\n"
        "    except OSError: return False\n"
        "    return True\n"
        f"print(json.dumps([reaches(t) for t in {targets!r}]))"
    )
    found: list[bool] = json.loads(project.python(service, code))
    return found


def is_reached_from(project: Project, service: str, target: tuple[str, int]) -> bool:
    return reached_from(project, service, [target]) == [True]
