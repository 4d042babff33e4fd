"""Stage 1 as a Ray Train job: workers train the teacher together, and resume.

The driver starts the job, waits, and moves the finished teacher into the storage
folder; it does not import torch. The workers checkpoint every epoch, so that a
killed worker, head or driver costs the present epoch. Not here: the training
loop (`teacher`), what is left out of Ray's trainer (`ray_trainer`).
"""

import logging
from collections.abc import Mapping
from typing import Any

from cloud.cluster.asking import ask
from cloud.cluster.driver import last_line, require_cluster, with_absolute_paths
from cloud.cluster.environment import environment
from cloud.storage import CARD, PROGRESS, WEIGHTS, StorageDir
from cloud.training.checkpoint_store import Store, local_store, open_store
from cloud.training.teacher_files import as_trial, finished_teacher, teacher_digest
from common.config import RunConfig
from common.data.datasets import load_dataset
from common.durable import write_atomic
from common.errors import ClusterError, StorageError
from common.release import TeacherCard

# Read by the trainer, which hands them on to its controller and workers.
_SETTINGS: dict[str, str | None] = {
    # Reports wait for the controller's next poll of its workers (default: 2 s).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}
# How long workers may take to start: on a busy machine their processes are slow. A
# training that may shrink waits no longer than by default, as a machine that was lost a
# moment ago may still be counted, and there is no other sign that it does not come.
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_START_S, _START_ELASTIC_S = "1200", "60"

_ABORT_S = 4.0

_log = logging.getLogger(__name__)


def train_teacher(config: RunConfig, storage: StorageDir) -> TeacherCard:
    """Train the teacher on the Ray cluster that this process is connected to.

    An unfinished training of the same config is resumed; the teacher of a finished one
    is returned at once.

    Args:
        config: of the run; [dataset], [threat], [teacher] and seed decide.
        storage: takes the teacher, its progress and its checkpoints; on several
            machines, a folder that all of them see, or, where `teacher.store` names
            a store for the checkpoints, one of this machine: the teacher and its
            progress are copied there at the end.

    Returns:
        The teacher's card, with its PGD accuracy on test images.

    Raises:
        ClusterError: the job failed for good, or does not fit the cluster.
        DataError: the data set is missing or damaged.
        ConfigError: `teacher.store` is not the URL of a folder.
        StorageError: the folder or the store cannot be written.
    """
    require_cluster()
    storage.create(storage.checkpoints)
    storage = storage.resolve()
    config = adapted_to_cluster(with_absolute_paths(config))
    name = f"teacher-{teacher_digest(config)}"
    url = config.teacher.store
    store = open_store(url) if url else local_store(storage.checkpoints)
    progress = store.within(name) if url else local_store(storage.root)
    if (card := finished_teacher(config, storage)) is not None:
        return card
    # Here, not in the workers: one download, and errors before the job starts.
    store.prepare()
    load_dataset(config.dataset, seed=config.seed)
    found = _fit(config, store, progress, name)
    if url:
        write_atomic(storage.progress, _read_required(progress, PROGRESS))
    write_atomic(storage.weights, _read_required(found, WEIGHTS))
    write_atomic(storage.card, _read_required(found, CARD))
    return TeacherCard.model_validate_json(storage.card.read_bytes())


def _read_required(source: Store, file: str) -> bytes:
    """Read a file that a finished training must have written."""
    data = source.read(file)
    if data is None:
        raise StorageError(
            f"{source.url} has no {file}, though the training there is finished; "
            "remove it and run the same command again"
        )
    return data


def _fit(config: RunConfig, store: Store, progress: Store, name: str) -> Store:
    """Run the job; return the folder of its last checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRunConfig

    from cloud.training.ray_trainer import ProcessGroupConfig, Trainer, first_takt_error

    teacher = config.teacher
    workers: Any = teacher.num_workers  # Ray annotates no range here
    start_s = _START_S
    if teacher.min_workers is not None:
        workers = (teacher.min_workers, teacher.num_workers)
        start_s = _START_ELASTIC_S
    trainer = Trainer(
        _train_as_worker,
        train_loop_config={"run": config.model_dump_json(), "progress": progress},
        backend_config=ProcessGroupConfig("nccl" if teacher.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=teacher.use_gpu,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if teacher.use_gpu else {}),
            # A worker without a GPU uses all that Ray has of its machine: one each,
            # where there are machines enough.
            placement_strategy="PACK" if teacher.use_gpu else "SPREAD",
        ),
        run_config=TrainRunConfig(
            name=name,
            storage_path=store.folder,
            storage_filesystem=store.filesystem,
            failure_config=FailureConfig(max_failures=teacher.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with environment(**_SETTINGS, **{_START_TIMEOUT: start_s}):
            result = trainer.fit()
    except Exception as e:  # Ray's own errors have no common class
        ours = first_takt_error(e)
        if ours is not None:
            raise ours from e
        raise ClusterError(
            f"training the teacher failed for good: {last_line(e)}; the logs of the "
            "cluster have details, and the same command resumes it"
        ) from e
    except BaseException:  # Ctrl-C: the job would run on as long as this process
        ask(trainer.abort, limit_s=_ABORT_S)
        raise
    if result.checkpoint is None:
        raise ClusterError(
            f"the job left no checkpoint in {store.url}; remove that folder and run "
            "it again"
        )
    return Store(result.checkpoint.filesystem, result.checkpoint.path, store.url)


def _train_as_worker(job: dict[str, Any]) -> None:
    """Train as one worker; in its process, where torch may be imported."""
    from cloud.training.worker import train_as_worker

    train_as_worker(RunConfig.model_validate_json(job["run"]), job["progress"])


def adapted_to_cluster(config: RunConfig) -> RunConfig:
    """Adapt a config to the connected cluster, or refuse it; see `adapted`."""
    import ray

    cluster: Any = ray  # its state functions carry no annotations
    found = adapted(config, cluster.cluster_resources(), len(cluster.nodes()))
    if found.teacher.trial:
        epochs = found.teacher.epochs
        _log.warning("no GPU here: a trial of %d epochs on CPUs", epochs)
    return found


def adapted(
    config: RunConfig, have: Mapping[str, float], num_machines: int
) -> RunConfig:
    """Adapt a config to a cluster, or refuse it.

    Where there is no GPU, and `teacher.trial` asks for it, a GPU-sized config becomes
    that of a trial; everywhere else `trial` is taken back.

    Args:
        config: of the run.
        have: the cluster's resources by Ray's names.
        num_machines: of the cluster; one of several may grow, one machine does not.

    Raises:
        ClusterError: the machine has fewer CPUs or GPUs than the job's workers.
    """
    if config.teacher.trial:
        whole = {"teacher": config.teacher.model_copy(update={"trial": False})}
        is_trial = config.teacher.use_gpu and not have.get("GPU")
        config = as_trial(config) if is_trial else config.model_copy(update=whole)
    teacher = config.teacher
    needed = teacher.min_workers or teacher.num_workers
    for kind in ("CPU", "GPU") if teacher.use_gpu else ("CPU",):
        if num_machines == 1 and have.get(kind, 0) < needed:
            key = "min_workers" if teacher.min_workers else "num_workers"
            advice = "lower it"
            if kind == "GPU":
                advice = (
                    "give teacher.use_gpu = false, or teacher.trial = true for a trial "
                    "of two epochs on CPUs"
                )
            raise ClusterError(
                f"teacher.{key} = {needed} needs as many {kind}s, "
                f"this cluster has {have.get(kind, 0):g}; {advice}"
            )
    return config
