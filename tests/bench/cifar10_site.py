"""What the steps of `cifar10_gpu.py` share: the recipe, the data set, the clock.

Not here: the steps.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from cloud.storage import WEIGHTS, StorageDir
from cloud.training.teacher_files import teacher_digest
from common.config import AttackConfig, RunConfig, StudentConfig
from common.data.datasets import Dataset, Split, load_dataset
from common.durable import write_atomic
from common.release import Manifest, decode_manifest
from deploy.runtime.settings import load_run_config

RESULTS = Path(__file__).parent / "results" / "cifar10.json"
# On top of the shipped config, which is TRADES with averaged weights.
OVERRIDES: dict[str, object] = {
    "teacher.awp_gamma": 0.005,
    "teacher.batch_size": 512,
    "teacher.learning_rate": 0.3,
    "teacher.eps_warmup_epochs": 3,
    "teacher.attack": {"steps": 5, "step_size": "3/255"},
    "knowledge.attack": {"steps": 10, "step_size": "2/255"},
    "knowledge.num_views": 24,
    "knowledge.shift": 4,
    "knowledge.flip": True,
}


class Site:
    """Where everything lies, and until when this call may work."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the config."""
        overrides = dict(OVERRIDES)
        overrides["teacher.model"] = options.teacher
        overrides["teacher.compile"] = options.compile
        if options.data_dir:
            overrides["dataset.data_dir"] = str(options.data_dir)
        if options.limit:
            overrides["dataset.limit"] = options.limit
        if options.epochs:
            overrides["teacher.epochs"] = options.epochs
        self.config: RunConfig = load_run_config("cifar10", overrides)[0]
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.work: Path = options.work / teacher_digest(self.config)[:12]
        trial = self.work / "results.json"
        self.out: Path = options.out or (trial if options.limit else RESULTS)
        self.release = StorageDir(self.work).knowledge
        self.release.mkdir(parents=True, exist_ok=True)
        self._end = time.monotonic() + 60 * options.minutes

    @property
    def models(self) -> tuple[str, ...]:
        """Name the teacher and the students."""
        return ("teacher", *self.options.students.split(","))

    def weights(self, name: str) -> Path:
        """Name the file of a model."""
        file = WEIGHTS if name == "teacher" else f"{name}.safetensors"
        return self.work / file

    def training_summary(self, name: str) -> Path:
        """Name the file of how a model was trained."""
        return self.work / f"training-{name}.json"

    def write_training_summary(self, name: str, summary: Mapping[str, object]) -> None:
        """Write how a model was trained, and on which device."""
        is_gpu = self.device.type == "cuda"
        device = torch.cuda.get_device_name() if is_gpu else "cpu"
        text = json.dumps({**summary, "trained_on": device})
        write_atomic(self.training_summary(name), text.encode())

    def is_over(self) -> bool:
        """Return whether this call's minutes are up."""
        return bool(time.monotonic() > self._end)

    def is_mine(self, number: int) -> bool:
        """Return whether a piece of work is this process's."""
        mine, count = map(int, self.options.share.split("/"))
        return number % count == mine % count

    def data(self) -> Dataset:
        """Load the data set; decoding 60,000 PNG files takes longer than an epoch."""
        path, names = self.work.parent / "dataset.npz", ("train", "val", "test")
        if self.options.limit or not path.exists():
            found = load_dataset(self.config.dataset, seed=self.config.seed)
            if not self.options.limit:
                arrays = {f"{n}_x": getattr(found, n).images for n in names}
                arrays |= {f"{n}_y": getattr(found, n).labels for n in names}
                part = path.with_suffix(".part.npz")
                np.savez(part, *[found.class_names], **arrays)
                part.rename(path)
            return found
        kept = np.load(path)
        train, val, test = (Split(kept[f"{n}_x"], kept[f"{n}_y"]) for n in names)
        return Dataset("cifar10", tuple(map(str, kept["arr_0"])), train, val, test)

    def manifest(self) -> Manifest:
        """Read what `knowledge` left."""
        return decode_manifest((self.release / "manifest.json").read_bytes())


def recipe_of(site: Site, name: str) -> StudentConfig:
    """Say how a student NAME or NAME:METHOD is trained."""
    model, _, method = name.partition(":")
    eps = site.config.threat.eps
    changes: dict[str, object] = {
        "model": model,
        "method": method or "takt",
        "batch_size": 512,
        "learning_rate": 0.3,
        "ema_decay": 0.995,
        "eps_warmup_epochs": 3,
        "epochs": site.options.student_epochs,
        "num_views": site.config.knowledge.num_views,
    }
    if method:  # as in the grid of `takt compare`
        changes["attack"] = AttackConfig(steps=10, step_size=eps / 4)
    return site.config.students["medium"].model_copy(update=changes)
