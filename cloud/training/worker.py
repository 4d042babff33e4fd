"""One worker of the teacher's training: runs in a process of Ray Train.

Loads the data itself, calls `fit_teacher` from the last checkpoint on, and reports each
epoch; rank 0 also writes progress, checkpoints and, at the end, the finished teacher.
Not here: the training (`cloud.training.teacher`), starting the job
(`cloud.training.job`).
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import ray.train
import torch
from ray.train import Checkpoint, TrainContext

from cloud.cluster.cores import cores_of_worker
from cloud.storage import PROGRESS
from cloud.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from cloud.training.checkpoint_store import Store
from cloud.training.images import for_teacher
from cloud.training.ranks import Ranks
from cloud.training.teacher import EpochReport, TeacherRun, fit_teacher
from cloud.training.teacher_card import write_teacher
from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset


def train_as_worker(config: RunConfig, progress: Store) -> None:
    """Train as one of the job's workers, to the end; rank 0 writes progress.jsonl."""
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    device = _prepare_device(config, context)
    dataset = load_dataset(config.dataset, seed=config.seed)
    state = _last_checkpoint()
    log = None
    if ranks.rank == 0:
        log = _ProgressLog(progress, num_epochs=state.epoch if state else 0)

    def after_epoch(run: TeacherRun, report: EpochReport) -> None:
        if log is None:
            ray.train.report(asdict(report))
            return
        log.add(report)
        with tempfile.TemporaryDirectory(prefix="takt-epoch-") as folder:
            _write_epoch(config, dataset, run, Path(folder))
            checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(asdict(report), checkpoint=checkpoint)

    fit_teacher(
        config,
        for_teacher(config, dataset),
        device=device,
        ranks=ranks,
        resume_from=state,
        after_epoch=after_epoch,
    )


def _write_epoch(
    config: RunConfig, dataset: Dataset, run: TeacherRun, folder: Path
) -> None:
    """Write what a checkpoint holds; that of the last epoch holds the teacher, too."""
    save_checkpoint(folder, run.state())
    if run.finished:
        write_teacher(config, dataset, run, folder)


def _prepare_device(config: RunConfig, context: TrainContext) -> torch.device:
    """Take this worker's share of the machine's cores, and its GPU if it has one."""
    torch.set_num_threads(cores_of_worker(context.get_local_world_size()))
    if not config.teacher.use_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", context.get_local_rank())
    torch.cuda.set_device(device)
    return device


def _last_checkpoint() -> TrainingState | None:
    """Read the checkpoint that Ray resumes the job from, if there is one."""
    resumed = ray.train.get_checkpoint()
    if resumed is None:
        return None
    with resumed.as_directory() as folder:
        return load_checkpoint(Path(folder))


class _ProgressLog:
    """progress.jsonl: one line an epoch, the file replaced as a whole each time."""

    def __init__(self, store: Store, *, num_epochs: int) -> None:
        """Keep the lines of so many epochs; those after them will be repeated."""
        self._store = store
        written = (store.read(PROGRESS) or b"").splitlines(keepends=True)
        self._lines = written[:num_epochs]
        if self._lines != written:
            self._write()

    def add(self, report: EpochReport) -> None:
        """Add an epoch's line."""
        line = json.dumps(asdict(report) | {"pid": os.getpid()})
        self._lines.append(line.encode() + b"\n")
        self._write()

    def _write(self) -> None:
        self._store.write(PROGRESS, b"".join(self._lines))
