"""Several independent pieces of work as Ray tasks, at once, and their errors as takt's.

Not here: what the work is (its caller), actors that hold state between pieces
(`cloud.extraction.job`), trainings of several workers (`cloud.training.job`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from cloud.cluster.driver import errors_as_ours, gpus_each, require_cluster


def run_tasks(
    task: Callable[..., str],
    calls: Sequence[tuple[Any, ...]],
    *,
    what: str,
    use_gpu: bool = False,
) -> list[str]:
    """Run a function on the connected cluster, once for each call's arguments.

    One whose worker is killed is run again, so that it must be repeatable.

    Args:
        task: a function of a module; its cores are those of `cores_of_worker`.
        calls: the arguments of each.
        what: names the work in an error.
        use_gpu: share the cluster's GPUs, if it has some.

    Returns:
        What each returned, in the order of the calls.

    Raises:
        ClusterError: the tasks failed for good, or no cluster is connected.
        TaktError: what the function raised.
    """
    import ray

    require_cluster()
    gpus = gpus_each(len(calls), use_gpu=use_gpu) if calls else 0.0
    remote: Any = ray.remote(task)
    remote = remote.options(num_cpus=1, num_gpus=gpus, max_retries=2)
    pending = [remote.remote(*arguments) for arguments in calls]
    waiting = list(pending)
    cluster: Any = ray
    try:
        with errors_as_ours(what):
            while waiting:
                (ready, *_), waiting = ray.wait(waiting, num_returns=1)
                ray.get(ready)
            return [str(result) for result in ray.get(pending)]
    finally:
        for job in waiting:
            cluster.cancel(job, force=True)
