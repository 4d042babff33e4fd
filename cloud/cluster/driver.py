"""What the driver of each Ray job does before it starts one, and when one fails.

Not here: the jobs (`cloud.training.job`, `cloud.extraction.job`), the cluster
(`cloud.cluster.local`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from common.config import RunConfig
from common.errors import ClusterError, TaktError
from common.text import shortened


def require_cluster() -> None:
    """Check that this process is connected to a Ray cluster.

    Raises:
        ClusterError: it is not.
    """
    import ray

    if not ray.is_initialized():
        raise ClusterError(
            "no Ray cluster is connected; enter local_cluster() or connect() first"
        )


def gpus_each(count: int, *, use_gpu: bool) -> float:
    """Share the connected cluster's GPUs among workers, at most one each; 0: none."""
    import ray

    if not use_gpu:
        return 0.0
    cluster: Any = ray
    total: float = cluster.cluster_resources().get("GPU", 0.0)
    return min(1.0, total / count)


@contextlib.contextmanager
def errors_as_ours(what: str) -> Iterator[None]:
    """Raise errors of Ray in the body as takt's.

    Args:
        what: names the work in an error.

    Raises:
        TaktError: what a task or an actor raised, if it is one.
        ClusterError: it raised another, or was lost for good.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, TaktError):
            raise e.cause from e
        raise ClusterError(f"{what} failed: {last_line(e)}") from e
    except ray.exceptions.RayError as e:
        raise ClusterError(
            f"{what} failed for good: {last_line(e)}; run it again"
        ) from e


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make the paths of a config absolute: workers run in folders of their own."""
    if config.dataset.data_dir is None:
        return config
    data_dir = config.dataset.data_dir.resolve()
    dataset = config.dataset.model_copy(update={"data_dir": data_dir})
    return config.model_copy(update={"dataset": dataset})


def last_line(error: Exception) -> str:
    """Return the last line of an error of Ray, which names the cause; at most 200."""
    if isinstance(error, TaktError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1] if lines else type(error).__name__, 200)
