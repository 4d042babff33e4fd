"""How good a teacher is for a student: the measure that teachers are chosen by.

A stronger teacher is not always the better one: over-confident ones give worse
students (SAAD, TMLR 2026). So a quick student is distilled from what a candidate
would ship, and measured on validation images. Not here: the candidates and their
training (deploy/selection/teacher.py), and test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from common.config import AttackConfig, StudentConfig
from common.data.datasets import Dataset, Split
from common.models.files import load_model
from common.release import Manifest, ShardInfo, release_images
from common.robustness.evaluate import autoattack, clean_accuracy, robust_accuracy_pgd
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.knowledge import read_knowledge
from edge.distill.task import Task

STEPS = 20  # of PGD on the validation images


@dataclass(frozen=True)
class Score:
    """A model on the validation images: fractions, at full eps."""

    clean_accuracy: float
    robust_accuracy: float


def teacher_score(path: Path, dataset: Dataset, *, eps: float) -> Score:
    """Measure a teacher's file as its students are measured.

    Raises:
        StorageError: the file is missing or damaged.
    """
    model, _ = load_model(path)
    x, y = dataset.val.tensors()
    attack = AttackConfig(steps=STEPS, step_size=eps / 8)
    robust = robust_accuracy_pgd(model, x, y, attack=attack, eps=eps, seed=0)
    return Score(clean_accuracy(model, x, y), robust.accuracy)


def student_score(
    recipe: StudentConfig,
    manifest: Manifest,
    release_dir: Path,
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    by_autoattack: bool = False,
) -> Score:
    """Distil a recipe's student and measure it; the mean over seeds.

    Trains the recipe's epochs, so that a busy machine gives the same result.

    Args:
        recipe: of the student.
        manifest: what the candidate would ship; its temperature counts.
        release_dir: the shards, under their file names.
        dataset: the candidate's own; students are measured on its validation split.
        seeds: of the students.
        by_autoattack: slower and stronger; else PGD of `STEPS` steps.

    Raises:
        ConfigError: the recipe names an unknown model or method.
        TrustError: a shard is missing or damaged.
    """
    task = Task.of_release(
        manifest,
        train=Images.of(_samples(manifest, release_dir, dataset)),
        val=Images.of(dataset.val),
        knowledge=read_knowledge(manifest, release_dir, recipe),
        seed=0,
    )
    x, y = dataset.val.tensors()
    attack = AttackConfig(steps=STEPS, step_size=manifest.eps / 8)
    found = []
    for seed in seeds:
        student = fit_student(recipe, replace(task, seed=seed)).model
        if by_autoattack:
            robust = autoattack(student, x, y, eps=manifest.eps, seed=0)
        else:
            robust = robust_accuracy_pgd(
                student, x, y, attack=attack, eps=manifest.eps, seed=0
            )
        found.append(Score(clean_accuracy(student, x, y), robust.accuracy))
    return Score(
        mean(s.clean_accuracy for s in found), mean(s.robust_accuracy for s in found)
    )


def _samples(manifest: Manifest, release_dir: Path, dataset: Dataset) -> Split:
    """Return the images that the candidate's knowledge is of."""
    if manifest.images == "same":
        return dataset.train

    def read(shard: ShardInfo) -> bytes:
        return (release_dir / Path(shard.path).name).read_bytes()

    return Split(*release_images(manifest, "images", read))
