"""The local Ray cluster: private while it runs, gone without a trace afterwards."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from waiting import WAIT_S, until

from cloud.cluster.cleanup import processes_of
from cloud.cluster.local import LocalCluster, connect, local_cluster
from common.errors import ClusterError
from common.interpreter import python

pytestmark = pytest.mark.ray
T = TypeVar("T")

SECOND_CLUSTER = """
import sys, time
import ray
from cloud.cluster.local import local_cluster
with local_cluster() as cluster:
    print(cluster.address, len(ray.nodes()), flush=True)
    time.sleep(120)
"""

STRANGER = """
import sys
from cloud.cluster.local import connect
from common.errors import ClusterError
try:
    with connect(sys.argv[1]):
        print("let in")
except ClusterError as e:
    print("refused", str(e).count(chr(10)))
"""

FAILS_ONCE = """
import gc
from ray._private.node import Node
from cloud.cluster.local import local_cluster
start, tries = Node.start_ray_processes, []
def fails_once(node):
    tries.append(start(node))
    if len(tries) == 1:
        raise TimeoutError("as on a busy machine")
Node.start_ray_processes = fails_once
with local_cluster():
    gc.collect()
print(len(tries))
"""


WORKER = """
import ray
from cloud.cluster.local import local_cluster
with local_cluster():
    @ray.remote
    def where():
        import random, sys, cloud.training
        return random.__file__, cloud.__file__, sys.path
    random_file, cloud_file, paths = ray.get(where.remote())
    print(random_file, cloud_file, sep=chr(10))
    print(*paths, sep=chr(10))
"""


RAYLET_DIES = """
import functools
from ray._private import services
from cloud.cluster.local import local_cluster
start = services.start_raylet
@functools.wraps(start)
def start_and_kill(*arguments, **options):
    started = start(*arguments, **options)
    started.process.kill()
    return started
services.start_raylet = start_and_kill
with local_cluster():
    pass
"""


STORE_GONE = """
import psutil, ray
from cloud.cluster.asking import ask
from cloud.cluster.cleanup import processes_of
from cloud.cluster.local import local_cluster
from deploy.runtime.exits import leave
with local_cluster() as cluster:
    print(ask(ray.nodes, limit_s=1e6), flush=True)
    store = [p for p in processes_of(cluster.folder) if p.name() == "gcs_server"]
    for process in store:
        process.kill()
    psutil.wait_procs(store)
    print(ask(ray.nodes, limit_s=1e6), flush=True)
leave(7)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("logs")) as running:
        yield running


def started(
    script: str, folder: Path, *arguments: str, stderr: int | None = None
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-W", "default::ResourceWarning", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment | {"TMPDIR": str(folder), "HOME": str(folder)},
    )


def asked(folder: Path, ask: Callable[[psutil.Process], T]) -> list[T]:
    """Ask the processes of a folder that have not ended meanwhile."""
    answers = []
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            answers.append(ask(process))
    return answers


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for TMPDIR; pytest's own are too long for Ray's sockets."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    for process in processes_of(folder):
        process.kill()
    shutil.rmtree(folder)


def test_an_address_where_nobody_answers_is_refused_at_once_in_one_line() -> None:
    with (
        pytest.raises(ClusterError, match=r"127\.0\.0\.1:1'") as e,
        connect("127.0.0.1:1"),
    ):
        pass
    assert "\n" not in str(e.value)


def test_every_socket_of_the_cluster_is_on_the_loopback(cluster: LocalCluster) -> None:
    listening = [
        connection.laddr.ip
        for connections in asked(cluster.folder, lambda p: p.net_connections("inet"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_the_token_is_private_and_a_stranger_without_it_is_refused(
    cluster: LocalCluster, short_folder: Path
) -> None:
    assert cluster.token_path.stat().st_mode & 0o777 == 0o600
    assert cluster.folder.stat().st_mode & 0o777 == 0o700
    stranger = started(STRANGER, short_folder, cluster.address)
    output, _ = stranger.communicate(timeout=WAIT_S)
    assert output == "refused 0\n"


def test_a_process_enters_one_cluster_only(cluster: LocalCluster) -> None:
    with pytest.raises(ClusterError, match="leave that one first"), local_cluster():
        pass
    with pytest.raises(ClusterError, match="leave that one"), connect(cluster.address):
        pass


def test_a_second_cluster_does_not_meet_the_first_and_ctrl_c_ends_all_of_it(
    cluster: LocalCluster, short_folder: Path
) -> None:
    import ray

    other = started(SECOND_CLUSTER, short_folder)
    assert other.stdout is not None
    address, num_nodes = other.stdout.readline().split()
    assert address != cluster.address
    assert num_nodes == "1"
    assert len(ray.nodes()) == 1  # type: ignore[no-untyped-call]
    assert processes_of(short_folder)
    other.send_signal(signal.SIGINT)
    other.communicate(timeout=WAIT_S)
    assert processes_of(short_folder) == []
    assert list(short_folder.glob("takt-*")) == []
    assert processes_of(cluster.folder)


def test_a_worker_imports_nothing_from_the_drivers_folder_or_pythonpath(
    short_folder: Path,
) -> None:
    users = short_folder / "users"
    for name in ("random", "cloud", "common"):
        (users / name).mkdir(parents=True)
        (users / name / "__init__.py").write_text("raise SystemExit('the users')")
    done = subprocess.run(
        python("-c", WORKER),
        cwd=users,
        env={**os.environ, "TMPDIR": str(short_folder), "PYTHONPATH": str(users)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(users) not in done.stdout


def test_ctrl_c_while_ray_starts_leaves_no_process(short_folder: Path) -> None:
    starting = started(SECOND_CLUSTER, short_folder)
    until("Ray", lambda: len(processes_of(short_folder)) >= 2, alive=starting)
    starting.send_signal(signal.SIGINT)
    starting.communicate(timeout=WAIT_S)
    assert processes_of(short_folder) == []
    assert list(short_folder.glob("takt-*")) == []


def agents_of(folder: Path) -> list[psutil.Process]:
    """List the agents of a raylet that are still importing their modules."""
    with contextlib.suppress(psutil.Error):
        return [
            process
            for process in processes_of(folder)
            if any(part.endswith("agent.py") for part in process.cmdline())
            or "main.py" in "".join(process.cmdline()[1:3])
        ]
    return []


def raylets_of(folder: Path) -> list[psutil.Process]:
    named = asked(folder, lambda process: (Path(process.exe()).name, process))
    return [process for name, process in named if name == "raylet"]


def test_ray_comes_up_however_slow_the_agents_of_its_raylet_are(
    short_folder: Path,
) -> None:
    starting = started(SECOND_CLUSTER, short_folder)
    until("agents", lambda: len(agents_of(short_folder)) >= 2, alive=starting)
    agents = agents_of(short_folder)
    for process in agents:
        process.suspend()
    (first,) = raylets_of(short_folder)
    assert starting.stdout is not None
    try:
        assert starting.stdout.readline().split()[1] == "1"  # one node, without them
        assert raylets_of(short_folder) == [first]  # and without a second try
    finally:
        for process in agents:
            process.resume()
        starting.send_signal(signal.SIGINT)
        starting.communicate(timeout=WAIT_S)


def test_a_raylet_that_dies_ends_the_start_with_its_name(short_folder: Path) -> None:
    starting = started(RAYLET_DIES, short_folder, stderr=subprocess.PIPE)
    _, errors = starting.communicate(timeout=WAIT_S)
    last = errors.strip().splitlines()[-1]
    assert "Ray did not start: its raylet was ended by SIGKILL" in last
    assert processes_of(short_folder) == []


def test_a_cluster_whose_control_store_has_gone_is_not_waited_for(
    short_folder: Path,
) -> None:
    process = started(STORE_GONE, short_folder, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=WAIT_S)
    assert output == "True\nFalse\n", errors
    assert process.returncode == 7
    assert processes_of(short_folder) == []
    assert list(short_folder.glob("takt-*")) == []


def test_no_signal_to_the_group_of_a_program_reaches_its_ray(
    cluster: LocalCluster,
) -> None:
    own = os.getpgrp()
    groups = set(asked(cluster.folder, lambda process: os.getpgid(process.pid)))
    assert groups and own not in groups


def test_no_agent_listens_where_the_kernel_gives_ports_to_anybody(
    cluster: LocalCluster,
) -> None:
    """Between choosing a port and binding it lie seconds of importing modules."""
    first_given = int(
        Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    )
    chosen = [
        int(port)
        for command in asked(cluster.folder, lambda process: process.cmdline())
        for port in re.findall(
            r"--(?:metrics-agent|metrics_agent|runtime[-_]env[-_]agent|"
            r"dashboard[-_]agent[-_]listen|metrics[-_]export)[-_]port=(\d+)",
            " ".join(command),
        )
    ]
    assert chosen and max(chosen) < first_given


def test_what_workers_leave_in_the_temporary_folder_goes_with_the_cluster(
    cluster: LocalCluster,
) -> None:
    import ray

    @ray.remote
    def temporary_folder() -> str:
        return os.environ["TMPDIR"]

    found: str = ray.get(temporary_folder.remote())
    assert Path(found).is_relative_to(cluster.folder)


def test_a_start_that_fails_once_is_made_up_for_and_nothing_of_it_is_left(
    short_folder: Path,
) -> None:
    process = started(FAILS_ONCE, short_folder, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=WAIT_S)
    assert output == "2\n"
    assert "still running" not in errors  # nobody lost track of a process
    assert processes_of(short_folder) == []
