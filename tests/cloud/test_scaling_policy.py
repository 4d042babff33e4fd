"""How an elastic training decides on its size; no cluster is needed to see it."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from cloud.training.scaling_policy import GROW_CHECK_S, SETTLE_S, Elastic
from common.config import TeacherConfig
from common.config.toml_file import parse_config
from common.errors import ConfigError


class Cluster:
    """Machines with CPUs, and a clock, that a test moves."""

    def __init__(self, *cpus: float, bounds: tuple[int, int] = (1, 4)) -> None:  # noqa: D107
        self.cpus, self.free, self.now = list(cpus), 0.0, 0.0
        workers: Any = bounds  # Ray annotates no range here
        self.policy = Elastic(
            ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            machines=lambda: [{"CPU": n} for n in self.cpus],
            free=lambda: {"CPU": self.free},
            clock=lambda: self.now,
        )

    def start(self) -> int | None:
        """Ask while no group runs; None: wait."""
        return size(self.policy.make_decision_for_non_running_worker_group())

    def run(self, workers: int) -> int | None:
        """Ask while a group runs; None: let it be."""
        state: Any = SimpleNamespace(num_workers=workers)
        return size(self.policy.make_decision_for_running_worker_group(state, None))


def size(decision: Any) -> int | None:
    return decision.num_workers if isinstance(decision, ResizeDecision) else None


def test_a_training_with_all_its_room_starts_at_once() -> None:
    assert Cluster(2.0, 2.0).start() == 4


def test_a_training_takes_what_there_is_after_a_moment() -> None:
    cluster = Cluster(1.0, 1.5)
    assert cluster.start() is None
    cluster.now += SETTLE_S
    assert cluster.start() == 2


def test_after_a_lost_machine_it_goes_on_with_fewer() -> None:
    cluster = Cluster(1.0, 1.0, bounds=(1, 2))
    assert cluster.start() == 2
    assert cluster.run(2) is None
    assert cluster.start() is None  # the cluster may not have noticed yet
    cluster.cpus = [1.0]
    cluster.now += SETTLE_S
    assert cluster.start() == 1


def test_with_too_few_machines_it_waits() -> None:
    cluster = Cluster(1.0, bounds=(2, 4))
    cluster.now += 100 * SETTLE_S
    assert cluster.start() is None
    cluster.cpus.append(1.0)
    cluster.now += SETTLE_S
    assert cluster.start() == 2


def test_it_grows_when_there_is_room_and_not_by_more_than_allowed() -> None:
    cluster = Cluster(1.0)
    cluster.now += SETTLE_S
    cluster.start()
    cluster.now += SETTLE_S
    cluster.start()
    cluster.free = 9.0
    assert cluster.run(1) is None  # looked a moment ago
    cluster.now += GROW_CHECK_S
    assert cluster.run(1) == 4
    cluster.now += GROW_CHECK_S
    assert cluster.run(4) is None
    cluster.free = 0.0
    cluster.now += GROW_CHECK_S
    assert cluster.run(3) is None


def test_room_that_another_job_holds_is_given_up_one_worker_at_a_time() -> None:
    cluster = Cluster(3.0, bounds=(1, 3))
    sizes = []
    for _ in range(5):  # none of them comes to run
        cluster.now += SETTLE_S
        while (count := cluster.start()) is None:
            cluster.now += SETTLE_S
        sizes.append(count)
    assert sizes == [3, 3, 2, 1, 1]


def test_more_workers_at_least_than_at_most_are_refused_in_one_line() -> None:
    text = (
        'model = "cnn_tiny"\nepochs = 1\nmin_workers = 3\nattack = { step_size = 0.1 }'
    )
    with pytest.raises(ConfigError, match="min_workers = 3 is more than num_workers"):
        parse_config(text, TeacherConfig, source="test")
