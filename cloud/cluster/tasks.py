"""Several independent pieces of work as Ray tasks, at once, and their errors as takt's.

Not here: what the work is (its caller), actors that hold state between pieces
(`cloud.extraction.job`), trainings of several workers (`cloud.training.job`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from cloud.cluster.driver import last_line, require_cluster
from common.errors import ClusterError, TaktError


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
    cluster: Any = ray
    gpus = 0.0
    if use_gpu and calls:
        gpus = min(1.0, cluster.cluster_resources().get("GPU", 0.0) / len(calls))
    remote: Any = ray.remote(task)
    remote = remote.options(num_cpus=1, num_gpus=gpus, max_retries=2)
    pending = [remote.remote(*arguments) for arguments in calls]
    waiting = list(pending)
    try:
        while waiting:
            (ready, *_), waiting = ray.wait(waiting, num_returns=1)
            ray.get(ready)
        return [str(result) for result in ray.get(pending)]
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, TaktError):
            raise e.cause from e
        raise ClusterError(f"{what} failed: {last_line(e)}") from e
    except ray.exceptions.RayError as e:
        raise ClusterError(
            f"{what} failed for good: {last_line(e)}; run it again"
        ) from e
    finally:
        for job in waiting:
            cluster.cancel(job, force=True)
