"""CIFAR-10 on one GPU, in calls of a few minutes: teacher, release, students.

    .venv/bin/python tests/bench/cifar10_gpu.py STEP... --data-dir DIR [--minutes 9]

STEP is `teacher`, `knowledge`, `student`, `autoattack`, or `all`. A call works until
its minutes are up and says what is left; the same call again goes on there, until it
says "done". Each step needs the one before it. Everything is in a folder of --work, one
for each recipe; results go to results/cifar10.json. Without a GPU give --limit and
--epochs, for a trial, whose results stay in its folder.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows

from cloud.checkpoint import load_checkpoint, save_checkpoint
from cloud.extract import shard_ranges
from cloud.extractor import Extractor
from cloud.leave import leave_teacher
from cloud.publish import draft_manifest
from cloud.recipe import CARD, WEIGHTS, finished_teacher, recipe_digest
from cloud.teacher import TeacherRun
from common.config import RunConfig
from common.datasets import Dataset, load_dataset
from common.durable import write_atomic
from common.errors import Interrupted, StorageError
from common.evaluate import autoattack, clean_accuracy
from common.knowledge import (
    Manifest,
    ShardInfo,
    TeacherCard,
    decode_manifest,
    encode_manifest,
)
from common.model_card import ModelCard
from common.models import load_model, num_parameters, save_model
from deploy.settings import load_run_config
from edge.fit import Images, fit_student
from edge.knowledge_reader import read_knowledge

RESULTS = Path(__file__).parent / "results" / "cifar10.json"
STEPS = ("teacher", "knowledge", "student", "autoattack")
CHUNK = 128  # images of AutoAttack between two looks at the clock
# On top of the shipped config, which is TRADES with averaged weights.
OVERRIDES: dict[str, object] = {
    "teacher.awp_gamma": 0.005,
    "teacher.compile": True,
    "knowledge.contents": ["soft_labels", "deltas"],
}


class Site:
    """Where everything lies, and until when this call may work."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read config and data."""
        overrides = dict(OVERRIDES)
        overrides["teacher.model"] = options.teacher
        if options.data_dir:
            overrides["dataset.data_dir"] = str(options.data_dir)
        if options.limit:
            overrides["dataset.limit"] = options.limit
        if options.epochs:
            overrides["teacher.epochs"] = options.epochs
        self.config: RunConfig = load_run_config("cifar10", overrides)[0]
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        recipe = f"{recipe_digest(self.config)}-{options.student_epochs}"
        self.work: Path = options.work / recipe
        trial = self.work / "results.json"
        self.out: Path = options.out or (trial if options.limit else RESULTS)
        self.release = self.work / "knowledge"
        self.release.mkdir(parents=True, exist_ok=True)
        self._end = time.monotonic() + 60 * options.minutes

    def is_over(self) -> bool:
        """Say whether this call's minutes are up."""
        return bool(time.monotonic() > self._end)

    def data(self) -> Dataset:
        """Load the data set."""
        return load_dataset(self.config.dataset, seed=self.config.seed)


def teacher(site: Site) -> bool:
    """Train; True when done."""
    config = site.config
    if finished_teacher(config, site.work):
        return True
    dataset = site.data()
    run = TeacherRun(config, dataset, device=site.device)
    try:
        run.restore(load_checkpoint(site.work))
    except StorageError:  # none yet
        run = TeacherRun(config, dataset, device=site.device)
    while not run.finished:
        if site.is_over():
            return False
        print(run.run_epoch(), flush=True)
        save_checkpoint(site.work, run.state())
    print(leave_teacher(config, dataset, run, site.work), flush=True)
    return True


def knowledge(site: Site) -> bool:
    """Extract, a range of samples at a time; True when done."""
    path = site.release / "manifest.json"
    if path.exists():
        return True
    dataset, config = site.data(), site.config
    extractor = Extractor(config.model_dump_json(), str(site.work))
    shards: list[ShardInfo] = []
    for part in shard_ranges(
        len(dataset.train),
        config.knowledge.contents,
        dataset.sample_shape,
        dataset.num_classes,
        parts=8,
    ):
        kept = site.work / f"shards-{part.start}.json"
        if not kept.exists():
            if site.is_over():
                return False
            made = extractor.extract(part.start, part.stop)
            write_atomic(kept, json.dumps(made).encode())
            print(f"knowledge of samples {part.start} to {part.stop}", flush=True)
        for tree in json.loads(kept.read_bytes()):
            tree["path"] = f"{config.channel}/1/{tree['path']}"
            shards.append(ShardInfo.model_validate(tree))
    card = TeacherCard.model_validate_json((site.work / CARD).read_bytes())
    manifest = draft_manifest(config, dataset, teacher=card, shards=tuple(shards))
    write_atomic(path, encode_manifest(manifest))
    return True


def _manifest(site: Site) -> Manifest:
    return decode_manifest((site.release / "manifest.json").read_bytes())


def student(site: Site) -> bool:
    """Distil every student that is asked for; True when all are done."""
    manifest, dataset = _manifest(site), site.data()
    for name in site.options.students:
        path = site.work / f"{name}.safetensors"
        if path.exists():
            continue
        recipe = site.config.students["medium"].model_copy(
            update={
                "model": name,
                "learning_rate": 0.1,
                "ema_decay": 0.995,
                "epochs": site.options.student_epochs,
            }
        )
        try:
            fitted = fit_student(
                recipe,
                Images.of(dataset.train),
                Images.of(dataset.val),
                read_knowledge(manifest, site.release, recipe),
                num_classes=manifest.num_classes,
                eps=manifest.eps,
                seed=0,
                checkpoint=site.work / f"{name}-state.safetensors",
                identity=recipe.model_dump_json(),
                device=site.device,
                on_epoch=lambda point: print(point, flush=True),
                should_stop=site.is_over,
            )
        except Interrupted:
            return False
        channels, size, _ = manifest.sample_shape
        card = ModelCard(
            architecture=name,
            in_channels=channels,
            image_size=size,
            num_classes=manifest.num_classes,
            class_names=manifest.class_names,
            dataset=manifest.dataset,
            fingerprint=manifest.fingerprint,
            eps=manifest.eps,
            seed=0,
            val_fraction=manifest.val_fraction,
            limit=manifest.limit,
            method=recipe.method,
        )
        save_model(path, fitted.model, card)
    return True


def attack(site: Site) -> bool:
    """Measure teacher and students with AutoAttack, in chunks; True when done."""
    x, y = site.data().test.tensors()
    total = min(site.options.images, len(y))
    for name in ("teacher", *site.options.students):
        file = site.work / (WEIGHTS if name == "teacher" else f"{name}.safetensors")
        model, card = load_model(file)
        model.to(site.device)
        for first in range(0, total, CHUNK):
            kept = _chunk(site, name, first, total)
            if kept.exists():
                continue
            if site.is_over():
                return False
            part = slice(first, min(first + CHUNK, total))
            found = autoattack(model, x[part], y[part], eps=card.eps, seed=0)
            write_atomic(kept, found.model_dump_json().encode())
            print(name, first, found.accuracy, flush=True)
        _add_row(site, name, card, model, (x, y), total)
    return True


def _chunk(site: Site, name: str, first: int, total: int) -> Path:
    return site.work / f"attacked-{name}-{first}-of-{total}.json"


def _add_row(
    site: Site,
    name: str,
    card: ModelCard,
    model: torch.nn.Module,
    test: tuple[torch.Tensor, torch.Tensor],
    total: int,
) -> None:
    parts = [
        json.loads(_chunk(site, name, first, total).read_bytes())
        for first in range(0, total, CHUNK)
    ]
    robust = sum(part["accuracy"] * part["num_images"] for part in parts) / total
    row: dict[str, Any] = {
        "dataset": "cifar10",
        "name": name,
        "architecture": card.architecture,
        "method": card.method,
        "num_parameters": num_parameters(model),
        "num_train": _manifest(site).num_samples,
        "clean_accuracy": clean_accuracy(model, *test),
        "robust_accuracy": robust,
        "attack": parts[0]["attack"],
        "version": parts[0]["version"],
        "norm": parts[0]["norm"],
        "eps": card.eps,
        "num_images": total,
        "flags": sorted({flag for part in parts for flag in part["flags"]}),
        "device": str(site.device),
    }
    rows = [r for r in read_rows(site.out) if r["name"] != name]
    write_rows(site.out, [*rows, row])
    print(row, flush=True)


WORK: dict[str, Callable[[Site], bool]] = dict(
    zip(STEPS, (teacher, knowledge, student, attack), strict=True)
)


def main() -> None:
    """Do the steps, until the minutes are up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="+", choices=[*STEPS, "all"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10-gpu"))
    parser.add_argument("--out", type=Path, help="of results, another place")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--epochs", type=int, help="of the teacher")
    parser.add_argument(
        "--students", nargs="+", default=["resnet18", "mobilenet_v2", "resnet20"]
    )
    parser.add_argument("--student-epochs", type=int, default=60)
    parser.add_argument("--images", type=int, default=1000, help="under AutoAttack")
    parser.add_argument("--limit", type=int, help="training images")
    options = parser.parse_args()
    site = Site(options)
    for step in STEPS if "all" in options.steps else options.steps:
        if not WORK[step](site):
            print(f"{step}: time is up; the same call goes on from here")
            return
    print("done")


if __name__ == "__main__":
    main()
