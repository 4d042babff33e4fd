"""CIFAR-10 on one GPU: teacher, release, students, AutoAttack.

    .venv/bin/python tests/bench/cifar10_gpu.py STEP... --data-dir DIR [--minutes 9]

STEP is `teacher`, `knowledge`, `student`, `pgd`, `autoattack`, `rows`, or `all`. A call
works until its minutes are up and says what is left; the same call again goes on there,
until it says "done". Each step needs the one before it, `rows` that of `pgd`. All but
`teacher` and `student` may be split between processes with --share K/N. One GPU trains
students one after the other faster than several at a time. Everything is in a folder of
--work, one for each recipe; results go to results/cifar10.json. Without a GPU give
--limit and --epochs, for a trial, whose results stay in its folder.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cifar10_measure import attack, pgd, rows
from cifar10_site import Site, recipe_of

from cloud.extraction.job import shard_ranges
from cloud.extraction.worker import Extractor
from cloud.publishing.publish import draft_manifest
from cloud.storage import StorageDir
from cloud.training.checkpoint import load_checkpoint, save_checkpoint
from cloud.training.teacher import TeacherRun
from cloud.training.teacher_card import write_teacher
from cloud.training.teacher_files import finished_teacher
from common.config import StudentConfig
from common.durable import write_atomic
from common.errors import Interrupted, StorageError
from common.models.files import save_model
from common.release import (
    ShardInfo,
    TeacherCard,
    encode_manifest,
    student_card,
)
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.knowledge import NO_KNOWLEDGE, read_knowledge
from edge.distill.task import Task

STEPS = ("teacher", "knowledge", "student", "pgd", "autoattack", "rows")
PARTS = 16  # of the knowledge, at most so many processes at it
CHECKPOINT_EPOCHS = 8  # between two checkpoints of the teacher


def teacher(site: Site) -> bool:
    """Train; True when done."""
    config = site.config
    if finished_teacher(config, StorageDir(site.work)):
        return True
    dataset = site.data()
    run = TeacherRun(config, dataset, device=site.device)
    try:
        run.restore(load_checkpoint(site.work))
    except StorageError:  # none yet
        run = TeacherRun(config, dataset, device=site.device)
    seconds = site.work / "teacher-seconds"
    if run.epoch == 0:
        seconds.write_text("0")
    while not run.finished:
        if site.is_over():
            save_checkpoint(site.work, run.state())
            return False
        began = time.monotonic()
        report = run.run_epoch()
        took = time.monotonic() - began
        seconds.write_text(f"{float(seconds.read_text()) + took}")
        print(report, f"{took:.1f} s", flush=True)
        if run.epoch % CHECKPOINT_EPOCHS == 0:
            save_checkpoint(site.work, run.state())
    summary = {
        "steps": config.teacher.attack.steps,
        "epochs": run.epoch,
        "train_s": round(float(seconds.read_text()), 1),
    }
    site.write_training_summary("teacher", summary)
    print(write_teacher(config, dataset, run, site.work), flush=True)
    return True


def knowledge(site: Site) -> bool:
    """Extract, a range of samples at a time; True when done."""
    path = site.release / "manifest.json"
    if path.exists():
        return True
    dataset, config = site.data(), site.config
    extractor = Extractor(config.model_dump_json(), str(site.work), dataset)
    ranges = shard_ranges(
        len(dataset.train),
        config.knowledge.contents,
        dataset.sample_shape,
        dataset.num_classes,
        parts=PARTS,
    )
    files = [site.work / f"shards-{part.start}.json" for part in ranges]
    for number, (part, file) in enumerate(zip(ranges, files, strict=True)):
        if not site.is_mine(number) or file.exists():
            continue
        if site.is_over():
            return False
        made = extractor.extract(part.start, part.stop)
        write_atomic(file, json.dumps(made).encode())
        print(f"knowledge of samples {part.start} to {part.stop}", flush=True)
    if not all(file.exists() for file in files):
        return True  # other processes are at the rest
    shards: list[ShardInfo] = []
    for file in files:
        for tree in json.loads(file.read_bytes()):
            tree["path"] = f"{config.channel}/1/{tree['path']}"
            shards.append(ShardInfo.model_validate(tree))
    card = TeacherCard.model_validate_json(StorageDir(site.work).card.read_bytes())
    manifest = draft_manifest(config, dataset, teacher=card, shards=tuple(shards))
    write_atomic(path, encode_manifest(manifest))
    return True


def student(site: Site) -> bool:
    """Train every student that is asked for; True when all are done."""
    manifest, dataset = site.manifest(), site.data()
    task = Task.of_release(
        manifest,
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        knowledge=NO_KNOWLEDGE,
        seed=0,
    )
    for name in site.models[1:]:
        path = site.weights(name)
        if path.exists():
            continue
        recipe = recipe_of(site, name)
        try:
            fitted = fit_student(
                recipe,
                replace(
                    task,
                    knowledge=read_knowledge(manifest, site.release, recipe),
                    device=site.device,
                    cpu_budget_s=site.options.student_seconds,
                ),
                checkpoint=CheckpointFile(
                    site.work / f"{name}-state.safetensors", recipe.model_dump_json()
                ),
                clock=time.monotonic,  # the GPU's time is not the process's
                on_epoch=lambda point: print(point, flush=True),
                should_stop=site.is_over,
            )
        except Interrupted:
            return False
        _write_student(site, name, fitted, recipe)
    return True


def _write_student(
    site: Site, name: str, fitted: Fitted, recipe: StudentConfig
) -> None:
    summary = {
        "steps": recipe.attack.steps,
        "epochs": fitted.epochs,
        "train_s": round(fitted.cpu_s.distil, 1),
        "fit_flags": list(fitted.flags),
    }
    site.write_training_summary(name, summary)
    card = student_card(site.manifest(), recipe, seed=0)
    save_model(site.weights(name), fitted.model, card)


WORK: dict[str, Callable[[Site], bool]] = dict(
    zip(STEPS, (teacher, knowledge, student, pgd, attack, rows), strict=True)
)


def main() -> None:
    """Do the steps, until the minutes are up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="+", choices=[*STEPS, "all"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10-gpu"))
    parser.add_argument("--out", type=Path, help="of results, another place")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--share", default="0/1", help="K/N: each Nth piece, from K")
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--epochs", type=int, help="of the teacher")
    parser.add_argument("--compile", action="store_true", help="the teacher")
    default = "resnet18,mobilenet_v2,resnet20,resnet20:pgd_at"
    parser.add_argument("--students", default=default, help="NAME[:METHOD],...")
    parser.add_argument("--student-epochs", type=int, default=60)
    parser.add_argument("--student-seconds", type=float, help="instead of epochs")
    parser.add_argument("--images", type=int, default=1000, help="under AutoAttack")
    parser.add_argument("--chunk", type=int, default=250, help="images at a time")
    parser.add_argument("--limit", type=int, help="training images")
    options = parser.parse_args()
    site = Site(options)
    for step in STEPS if "all" in options.steps else options.steps:
        if not WORK[step](site):
            print(f"{step}: not done; the same call goes on from here")
            return
    print("done")


if __name__ == "__main__":
    main()
