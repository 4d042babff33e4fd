"""One worker of the teacher's training: runs in a process of Ray Train.

Loads the data itself, resumes, trains epoch by epoch with the other workers, and
reports each; rank 0 also writes progress, checkpoints and, at the end, the
finished model with its card. Not here: starting the job (job.py).
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint

from cloud.storage import PROGRESS
from cloud.training.checkpoint import load_checkpoint, save_checkpoint
from cloud.training.checkpoint_store import Store
from cloud.training.images import for_teacher
from cloud.training.ranks import Ranks
from cloud.training.teacher import TeacherRun
from cloud.training.teacher_card import leave_teacher
from common.config import RunConfig
from common.data.datasets import load_dataset


def work(config: RunConfig, progress: Store) -> None:
    """Train as one of the job's workers, to the end; rank 0 writes progress.jsonl."""
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // context.get_local_world_size()))
    dataset = load_dataset(config.dataset, seed=config.seed)
    device = torch.device("cpu")
    if config.teacher.use_gpu:
        device = torch.device("cuda", context.get_local_rank())
        torch.cuda.set_device(device)
    lessons = for_teacher(config, dataset)
    run = TeacherRun(config, lessons, device=device, ranks=ranks)
    resumed = ray.train.get_checkpoint()
    if resumed is not None:
        with resumed.as_directory() as folder:
            run.restore(load_checkpoint(Path(folder)))
    first = ranks.rank == 0
    written = (progress.read(PROGRESS) or b"").splitlines(keepends=True)
    lines = written[: run.epoch]
    if first and lines != written:  # of epochs that will be repeated
        progress.write(PROGRESS, b"".join(lines))
    last: dict[str, Any] = {"epoch": run.epoch}
    while not run.finished:
        report = run.run_epoch()
        last = asdict(report)
        if first:
            line = json.dumps(asdict(report) | {"pid": os.getpid()})
            lines.append(line.encode() + b"\n")
            progress.write(PROGRESS, b"".join(lines))
        with tempfile.TemporaryDirectory(prefix="takt-epoch-") as folder:
            if first:
                save_checkpoint(Path(folder), run.state())
                if run.finished:
                    leave_teacher(config, dataset, run, Path(folder))
            checkpoint = Checkpoint.from_directory(folder) if first else None
            ray.train.report(last, checkpoint=checkpoint)
