"""A training that loses a machine for good, goes on, and grows when one comes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from train_ray import CONFIG, epochs_in, reports_in

from cloud.cluster.local import LocalCluster, local_cluster
from cloud.storage import StorageDir
from cloud.training.job import train_teacher
from deploy.runtime.processes import end_tree

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]

EPOCHS = 100_000  # however fast they are: Ctrl-C ends the training
WAIT_S = 600
# What `ray start` does, on the loopback as takt's own cluster (cloud.cluster.local).
MACHINE = """
import signal, sys
from cloud.cluster.environment import on_loopback
from cloud.cluster.startup import unhurried_start
from ray._private.node import Node
from ray._private.parameter import RayParams
with on_loopback(), unhurried_start():
    node = Node(
        RayParams(
            gcs_address=sys.argv[1],
            node_ip_address="127.0.0.1",
            num_cpus=1,
            object_store_memory=100_000_000,
        ),
        head=False,
        spawn_reaper=False,
    )
    signal.pause()
"""


@contextlib.contextmanager
def machine(cluster: LocalCluster) -> Iterator[Callable[[], None]]:
    """Add a machine of one CPU; what is yielded takes it away for good."""
    process = subprocess.Popen(
        [sys.executable, "-c", MACHINE, cluster.address],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )

    def gone() -> None:
        end_tree(process, grace_s=0)

    try:
        yield gone
    finally:
        gone()


def test_a_training_goes_on_with_fewer_workers_and_grows_again(tmp_path: Path) -> None:
    teacher = CONFIG.teacher.model_copy(update={"min_workers": 1, "epochs": EPOCHS})
    config = CONFIG.model_copy(update={"teacher": teacher})
    progress = tmp_path / "progress.jsonl"
    ended = threading.Event()

    def wait_for(workers: int) -> None:
        end = time.monotonic() + WAIT_S
        while not ended.is_set() and time.monotonic() < end:
            last = [epoch["num_workers"] for epoch in reports_in(progress)[-3:]]
            if last == [workers] * 3:
                return
            time.sleep(0.1)

    with local_cluster(tmp_path / "logs", num_cpus=1) as cluster:

        def disturb() -> None:
            with machine(cluster) as take_away:
                wait_for(2)
                take_away()
                wait_for(1)
            with machine(cluster):
                wait_for(2)
                if not ended.is_set():
                    os.kill(os.getpid(), signal.SIGINT)
                    ended.wait(WAIT_S)

        disturbance = threading.Thread(target=disturb)
        disturbance.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                train_teacher(config, StorageDir(tmp_path))
        finally:
            ended.set()
            disturbance.join()
    seen = reports_in(progress)
    assert epochs_in(progress) == list(range(1, len(seen) + 1))
    sizes = [epoch["num_workers"] for epoch in seen]
    changes = [n for i, n in enumerate(sizes) if i == 0 or sizes[i - 1] != n]
    # More where the machine came late, or where a busy one was taken for dead.
    assert "212" in "".join(map(str, changes))
    assert seen[-1]["clean_accuracy"] > 0.6
