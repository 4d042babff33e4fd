"""How many cores a training worker computes on, on Ray nodes of several sizes."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

# Two Ray nodes on one host, as containers are: each has one slot of its own.
WORKER = """
import ray
from cloud.cluster.cores import cores_of_worker
from cloud.cluster.local import local_cluster
from common.effective_limits import usable_cores

with local_cluster(num_cpus={slots}):
    count = ray.remote(cores_of_worker)
    print(usable_cores(), *ray.get([count.remote(1), count.remote(2)]))
"""


def counted(slots: int) -> list[int]:
    """Ask a task of a Ray with so many slots: usable cores, alone, one of two."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER.format(slots=slots)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_a_worker_takes_what_ray_has_of_its_machine_not_what_the_host_has() -> None:
    _, alone, one_of_two = counted(slots=1)
    assert (alone, one_of_two) == (1, 1)


def test_workers_of_one_machine_share_the_cores_that_may_be_used() -> None:
    cores, alone, one_of_two = counted(slots=64)
    assert (alone, one_of_two) == (cores, max(1, cores // 2))
