"""How many workers a training has: a fixed number, or as many as there is room for.

Policies of Ray Train's controller that need no autoscaler. An elastic training that has
lost a machine continues with fewer workers, from its last checkpoint, and grows again
when there is room; a batch is divided among all workers, so its size stays the same.
Not here: the trainer (ray_trainer.py).
"""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train.v2._internal.execution.scaling_policy import (
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

SETTLE_S = 3.0  # after a loss, until the cluster has noticed which machines are gone
GROW_CHECK_S = 30.0  # between two checks for room to grow; growing costs a restart

Resources = dict[str, float]


class FixedSize(FixedScalingPolicy):
    """A worker group of one size."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Leave the autoscaler alone."""

    def _maybe_send_resource_request(self) -> None:
        pass


def _machines() -> list[Resources]:
    """List the resources of each machine of the cluster that is up."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _free() -> Resources:
    """Return the unused resources of all machines."""
    found: Resources = ray.available_resources()  # type: ignore[no-untyped-call]
    return found


class Elastic(FixedSize):
    """A worker group of the largest size that there is room for, within bounds."""

    def __init__(
        self,
        scaling_config: Any,
        *,
        machines: Callable[[], list[Resources]] = _machines,
        free: Callable[[], Resources] = _free,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the cluster through these functions, and a monotonic clock."""
        super().__init__(scaling_config)
        self._machines = machines
        self._free = free
        self._clock = clock
        self._down_since: float | None = None
        self._checked = clock()
        self._starts = 0  # in a row after which no group ran

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start what fits; one worker less after each start that failed.

        Resources that other jobs hold cannot be distinguished from those that the lost
        group still holds, so the machines are counted as if no other job used them.
        """
        now = self._clock()
        if self._down_since is None:
            self._down_since = now
        bounds = self.scaling_config
        count = min(sum(map(self._count, self._machines())), bounds.max_workers)
        lost = self._starts > 0 or count < bounds.max_workers
        if count < bounds.min_workers or (lost and now - self._down_since < SETTLE_S):
            return NoopDecision()
        count = max(bounds.min_workers, count - max(0, self._starts - 1))
        self._starts += 1
        self._down_since = None
        return self._resized(count)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Grow when resources became free."""
        # A loss is then waited for, as any start but the first is.
        self._starts, self._down_since = 1, None
        now = self._clock()
        if now - self._checked < GROW_CHECK_S:
            return NoopDecision()
        self._checked = now
        present = worker_group_state.num_workers
        count = min(
            present + self._count(self._free()), self.scaling_config.max_workers
        )
        return self._resized(count) if count > present else NoopDecision()

    def _count(self, resources: Resources) -> int:
        """Return for how many workers some resources are enough."""
        each = self.scaling_config._resources_per_worker_not_none
        return int(min(resources.get(name, 0) // need for name, need in each.items()))

    def _resized(self, count: int) -> ResizeDecision:
        each = self.scaling_config._resources_per_worker_not_none
        return ResizeDecision(num_workers=count, resources_per_worker=each)
