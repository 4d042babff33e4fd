"""Measures what a student's training costs, in a child inside the caps.

``python -m edge.distill.trial JOB.json`` trains a few steps and writes what
it measured; here are the messages between it and its parent, and the parent's side.
Torch-free. Not here: which students are tried, and the choice
(deploy/selection/student.py).
"""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from common.config import DatasetConfig, KnowledgeConfig, ProfileConfig, StudentConfig
from common.durable import write_atomic
from common.errors import OUT_OF_MEMORY
from common.interpreter import python
from edge.jobs.job import Message, read_message
from edge.jobs.runner import error_of_child, last_line
from edge.limits import child_environment, num_threads, open_executor

JOB, COST, LOG = "trial.json", "cost.json", "trial.log"


class TrialJob(Message):
    """One student to try out on a node's own images."""

    recipe: StudentConfig
    release_dir: Path | None
    dataset: DatasetConfig
    seed: int
    eps: float
    knowledge: KnowledgeConfig | None  # without a release: what stands in is like this
    work_dir: Path
    threads: int = Field(ge=1)
    cpu_s: float = Field(gt=0)  # the cap: no more is measured once it is exceeded


class Cost(Message):
    """What a trial measured; CPU-seconds are of training, attacks included."""

    num_parameters: int
    num_macs: int  # of a forward pass of one image
    cpu_s_per_epoch: float
    cpu_s: float  # of all epochs: of the tuning, where starting weights are shipped
    is_bound: bool  # at least so much: a part of a batch alone is over the cap


@dataclass(frozen=True)
class Trial:
    """A cost beside the memory it took; no cost where memory ran out."""

    cost: Cost | None
    peak_memory_mib: float
    cap_method: str
    hard: bool


def try_out(
    recipe: StudentConfig,
    profile: ProfileConfig,
    *,
    release_dir: Path | None,
    dataset: DatasetConfig,
    seed: int,
    eps: float,
    cpu_s: float,
    knowledge: KnowledgeConfig | None = None,
) -> Trial:
    """Train a few steps of a student inside a profile's caps.

    Raises:
        CapError: the caps cannot be enforced, or are too small to start with.
        TaktError: what the child found wrong: images, release, recipe.
    """
    with (
        tempfile.TemporaryDirectory(prefix="takt-fit-") as folder,
        open_executor(profile, name="fit") as executor,
    ):
        work = Path(folder)
        job = TrialJob(
            recipe=recipe,
            release_dir=release_dir,
            dataset=dataset,
            seed=seed,
            eps=eps,
            knowledge=knowledge,
            work_dir=work,
            threads=num_threads(profile),
            cpu_s=cpu_s,
        )
        write_atomic(work / JOB, job.model_dump_json().encode())
        with (work / LOG).open("wb") as log:
            process = executor.spawn(
                python("-m", "edge.distill.trial", str(work / JOB)),
                env={**os.environ, **child_environment(profile)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            code = process.wait()
        usage = executor.usage()
        peak = round(usage.peak_memory_mib, 1)
        if usage.oom_killed or code == OUT_OF_MEMORY:
            return Trial(None, peak, executor.method, executor.hard)
        if code != 0:
            error = last_line(work / LOG, 0) or f"the trial ended with status {code}"
            raise error_of_child(code, error)
        cost = read_message(work / COST, Cost)
    return Trial(cost, peak, executor.method, executor.hard)
