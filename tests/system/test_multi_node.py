"""The cloud side on a Ray cluster of three machines, one of which dies.

The machines are namespaces of this one (machines.py) with addresses of their own;
they share the storage folder. Jobs are submitted as deploy/ssh/README.md does it. A
node, on a machine of its own, follows the gateway on the head.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machines import WAIT_S, Machine, Site, site, why_no_machines
from waiting import until

from cloud.pki.authority import Authority
from common.config import ProfileConfig
from common.errors import StorageError
from common.release import TeacherCard
from edge.config import EdgeConfig, save_edge_config
from edge.state import read_status

WHY_NOT = why_no_machines()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]

BIN = Path(sys.executable).parent
EPOCHS = 30
CHANGES = {
    "dataset.limit": 300,
    "teacher.model": '"cnn_small"',
    "teacher.epochs": EPOCHS,
    "students.tiny.epochs": 2,
    "gateway.port": 7443,
    "gateway.enroll_port": 7444,
}


@dataclass
class Cluster:
    """A Ray cluster: a head that takes no work, and two machines that do."""

    site: Site
    head: Machine
    workers: list[Machine]
    shared: Path
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def environment(self) -> list[str]:
        """Give what every process of the cluster knows."""
        mine, token = self.site.folder, self.shared / "token"
        return [
            "env",
            "--unset=RAY_ADDRESS",
            "RAY_AUTH_MODE=token",
            f"RAY_AUTH_TOKEN_PATH={token}",
            f"HOME={mine}",
            f"TMPDIR={mine}",
            "RAY_worker_niceness=0",  # of 15, beside other work: for minutes nothing
            "OMP_NUM_THREADS=1",
        ]

    def ray(self, machine: Machine, *arguments: str) -> str:
        """Call `ray` on a machine."""
        return machine.run(*self.environment(), str(BIN / "ray"), *arguments)

    def start(self, machine: Machine, *arguments: str) -> None:
        """Start Ray on a machine."""
        address = f"--node-ip-address={machine.address}"
        memory = "--object-store-memory=100000000"
        self.ray(machine, "start", address, memory, "--disable-usage-stats", *arguments)

    def takt(self, verb: str, storage: Path) -> list[str]:
        """Write a command of `takt cloud`."""
        changes = CHANGES | {"gateway.host": self.head.address}
        sets = [f"--set={key}={value}" for key, value in changes.items()]
        words = ["cloud", verb, "--config=digits", f"--storage={storage}", *sets]
        return [str(BIN / "takt"), *words]

    def submit(self, name: str, verb: str) -> "Job":
        """Submit a job from the head; its words go to a log beside its storage."""
        storage = self.shared / name
        submit = ["job", "submit", "--address=http://127.0.0.1:8265", "--"]
        ray = [*self.environment(), str(BIN / "ray"), *submit]
        with storage.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                self.head.command(*ray, *self.takt(verb, storage)),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return Job(process, storage)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "token").touch(mode=0o600)
    (shared / "token").write_text(secrets.token_hex(32))
    cores = sorted(os.sched_getaffinity(0))
    with site() as place:
        head = place.add("head")
        # With a core each: two that spin on the same ones would train for minutes.
        workers = [place.add("one", cores[0]), place.add("two", cores[-1])]
        cluster = Cluster(place, head, workers, shared)
        cluster.start(head, "--head", "--num-cpus=0", f"--temp-dir={place.folder}/r")
        with ThreadPoolExecutor() as both:
            join = f"--address={head.address}:6379"
            list(both.map(lambda w: cluster.start(w, "--num-cpus=2", join), workers))
        yield cluster
    for process in cluster.started:
        process.wait()


@dataclass
class Job:
    """A job under way, and what it leaves."""

    process: "subprocess.Popen[str]"
    storage: Path

    def epochs(self) -> list[int]:
        """List the epochs that it has written down."""
        path = self.storage / "progress.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["epoch"] for line in lines]

    def said(self) -> str:
        """Return what it and `ray job submit` have said."""
        return self.storage.with_suffix(".log").read_text()

    def card(self) -> TeacherCard:
        """Wait for its teacher."""
        path = self.storage / "teacher.json"
        until(self.said, path.exists, WAIT_S)
        return TeacherCard.model_validate_json(path.read_bytes())


def trains(machine: Machine) -> bool:
    """Say whether a worker of a training runs on a machine."""
    return any("RayTrainWorker" in line for line in machine.processes())


@pytest.fixture(scope="module")
def unharmed(cluster: Cluster) -> TeacherCard:
    """Train a teacher on both machines."""
    job = cluster.submit("unharmed", "train")
    assert job.process.wait(timeout=2 * WAIT_S) == 0, job.said()
    return job.card()


@pytest.fixture(scope="module")
def harmed(cluster: Cluster, unharmed: TeacherCard) -> Job:
    """Cut one machine's power while the same teacher is trained on both."""
    job = cluster.submit("harmed", "run")
    until(job.said, lambda: len(job.epochs()) >= 3, 2 * WAIT_S)
    assert all(trains(machine) for machine in cluster.workers)
    cluster.site.cut_power(cluster.workers[1])
    assert len(job.epochs()) < EPOCHS
    return job


def test_a_machine_lost_in_training_costs_time_and_nothing_else(
    cluster: Cluster, unharmed: TeacherCard, harmed: Job
) -> None:
    card = harmed.card()
    assert harmed.epochs() == list(range(1, EPOCHS + 1))
    assert card == unharmed  # the digest of the weights included


@pytest.fixture(scope="module")
def porch(cluster: Cluster, harmed: Job) -> Path:
    """Let a node in, on a machine of its own; return its state folder."""
    storage, head = harmed.storage, cluster.head.address
    until(harmed.said, (storage / "gateway.json").exists, WAIT_S)
    config = EdgeConfig(
        node="porch",
        student="tiny",
        gateway=f"{head}:7443",
        enroll=f"{head}:7444",
        ca=storage / "pki" / "ca.crt",
        state_dir=cluster.shared / "porch",
        profile=ProfileConfig(cpus=1.0, memory_mib=1500, bandwidth_kib_s=10_000),
        heartbeat_s=0.5,
    )
    token = Authority(storage / "pki").allow("porch")
    path = cluster.shared / "edge.toml"
    save_edge_config(config, path)
    machine = cluster.site.add("porch")
    run = [str(BIN / "takt"), "edge", "run", f"--config={path}"]
    with (cluster.shared / "porch.log").open("w") as log:
        cluster.started.append(
            subprocess.Popen(
                machine.command(
                    "env", "OMP_NUM_THREADS=1", f"TAKT_TOKEN={token}", *run
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return config.state_dir


def has_release(state_dir: Path, version: int) -> bool:
    """Say whether a node has dealt with a release."""
    try:
        status = read_status(state_dir)
    except StorageError:
        return False  # not yet at work
    return status.state == "idle" and status.version == version


def test_the_gateway_restarts_on_the_head_and_a_node_finds_it_again(
    cluster: Cluster, harmed: Job, porch: Path
) -> None:
    log = porch.with_suffix(".log")
    until(log.read_text, lambda: has_release(porch, 1), WAIT_S)
    there = harmed.storage / "gateway.json"
    before = json.loads(there.read_bytes())
    cluster.head.run("kill", "-KILL", str(before["pid"]))
    until(harmed.said, lambda: json.loads(there.read_bytes()) != before, WAIT_S)
    assert json.loads(there.read_bytes()) | {"pid": 0} == before | {"pid": 0}
    publish = cluster.takt("publish", harmed.storage)
    cluster.head.run(*cluster.environment(), *publish, "--force")
    until(log.read_text, lambda: has_release(porch, 2), WAIT_S)
