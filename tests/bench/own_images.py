"""Nodes with images of their own: what a release brings them, by scenario.

    .venv/bin/python tests/bench/own_images.py mnist --students tiny --seeds 0 1 \
        [--scenarios few classes] [--data-dir DIR]

    none        no own images, against the same student on the cloud's 7,200 images held
                as its own, no teacher
    full        that student, without a teacher
    few         500 own images of all classes, labelled
    classes     200 own images of the classes 2, 5 and 8
    unlabelled  200 own images of all classes, no label, shared with the teacher
    camera      200 own images as a shifted camera has them, tested on images like them
    fifth       7,200 own images, and a fifth of the steps

The release is the same for all: 2,000 images with four views each, starting weights.
Methods: `takt`, from starting weights where the scenario has them; `shipped`, those
weights as they are; `own_only`, own images alone and the teacher-free training that was
best on validation images (own_images_tune.json); `no_teacher`, takt's images, weights,
views and steps with true labels. Passes are what is made equal: a step with k attack
steps costs k + 1, and one more with the penalty on the student's slope, so a training
with more of them takes fewer steps. AutoAttack standard on stratified test images, by
which nothing is chosen. The rows go to results/own_images.json as they come;
own_images_table.py and own_gains_table.py write the page's tables.
"""

import argparse
import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from own_site import Known, Site, site_parser
from rows import Row, read_rows, robustness, write_rows
from torch import nn

from common.config import AttackConfig, StudentConfig, TuningConfig
from common.config.own_images import CameraShift
from common.data.camera import shifted
from common.data.datasets import Split
from common.models.zoo import num_parameters
from common.robustness.attack_record import digest_of
from common.robustness.autoattack import autoattack_each
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from deploy.evaluation.images import stratified_positions
from edge.distill.fitting.fit import fit_student

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "own_images.json"
TUNING = RESULTS / "own_images_tune.json"
CLASSES = (2, 5, 8)
NO_SHIFT: tuple[CameraShift, ...] = ("none",)
SHIFTS: tuple[CameraShift, ...] = ("rotation", "blur", "brightness")
TUNING_SEED = 1000
STEPS = 1456  # of 128 images: 26 passes over 7,200 images
TUNED_STEPS = 600  # from starting weights
RELEASED, RELEASED_VIEWS, OWN_VIEWS = 2000, 4, 10
SCENARIOS: dict[str, tuple[str, ...]] = {
    "none": ("takt",),
    "full": ("own_only",),
    "few": ("takt", "own_only", "no_teacher"),
    "classes": ("takt", "shipped", "no_teacher", "own_only"),
    "unlabelled": ("takt", "shipped"),
    "camera": ("takt", "shipped", "no_teacher"),
    "fifth": ("takt", "own_only"),
}


class Choice(NamedTuple):
    """What the tuning chooses of a training."""

    method: str
    steps: int  # of the attack
    rate: float  # learning rate, in units of the recipe's
    slope: float = 0.0  # weight of the penalty on it, in units of the recipe's
    length: float = 1.0  # share of the steps that the node may take
    views: int | None = None  # of own images; None: as many as the node has


Tries = dict[str, tuple[Choice, ...]]
# On the cloud's validation images, of students without the penalty on their slope and
# of those whose recipe has it. Own images alone have ten, takt from weights six.
PLAIN: Tries = {
    "alone": (
        Choice("warm_at", 1, 1.0),
        Choice("warm_at", 2, 1.0),
        Choice("pgd_at", 2, 1.0),
        Choice("pgd_at", 3, 1.0),
        Choice("n_fgsm", 1, 1.0),
        Choice("fgsm_pgi", 1, 1.0),
        Choice("warm_at", 1, 0.5),
        Choice("warm_at", 1, 1.0, length=0.5),
        Choice("warm_at", 1, 1.0, views=1),
        Choice("warm_at", 2, 1.0, views=1),
    ),
    "from weights": (
        *(Choice("takt", steps, rate) for steps in (1, 2) for rate in (0.125, 0.25)),
        Choice("takt", 1, 0.125, views=1),
        Choice("takt", 2, 0.25, views=1),
    ),
    "from scratch": tuple(
        Choice("takt", steps, rate) for steps in (1, 2) for rate in (0.7, 1.0)
    ),
}
PENALISED: Tries = {
    "alone": (
        Choice("warm_at", 1, 1.0, 1.0),
        Choice("warm_at", 2, 1.0, 1.0),
        Choice("pgd_at", 2, 1.0, 1.0),
        Choice("warm_at", 2, 1.0, 0.0),
        Choice("n_fgsm", 1, 1.0, 1.0),
        Choice("fgsm_pgi", 1, 1.0, 1.0),
        Choice("warm_at", 1, 0.5, 1.0),
        Choice("warm_at", 1, 1.0, 1.0, length=0.5),
        Choice("warm_at", 1, 1.0, 1.0, views=1),
        Choice("warm_at", 2, 1.0, 1.0, views=1),
    ),
    "from weights": (
        Choice("takt", 1, 0.125, 1.0),
        Choice("takt", 2, 0.125, 1.0),
        Choice("takt", 2, 0.25, 1.0),
        Choice("takt", 2, 0.125, 0.0),
        Choice("takt", 1, 0.125, 1.0, views=1),
        Choice("takt", 2, 0.25, 1.0, views=1),
    ),
    "from scratch": (
        Choice("takt", 1, 1.0, 1.0),
        Choice("takt", 2, 0.7, 1.0),
        Choice("takt", 2, 1.0, 1.0),
        Choice("takt", 2, 1.0, 0.0),
    ),
}
PASSES = 3  # of a step, by which the numbers of steps are meant


@dataclass(frozen=True)
class Node:
    """What a node has and may do, in one scenario."""

    own: Split | None
    num_views: int = OWN_VIEWS
    released: int = RELEASED
    released_views: int = RELEASED_VIEWS
    has_weights: bool = True
    steps: int = TUNED_STEPS  # of takt
    free_steps: int = STEPS  # of a training without the release
    classes: tuple[int, ...] = ()
    shift: CameraShift = "none"


def node_of(site: Site, scenario: str, shift: CameraShift, seed: int) -> Node:
    """Draw a scenario's node."""
    if scenario == "none":
        return Node(None, has_weights=False, steps=STEPS, free_steps=STEPS)
    if scenario == "full":  # its own images, though they are those that the cloud has
        return Node(site.data.train, num_views=4)
    if scenario == "fifth":
        own = site.own_images(7200, seed=seed)
        return Node(own, num_views=4, steps=STEPS // 5)
    if scenario == "few":
        return Node(site.own_images(500, seed=seed))
    if scenario == "classes":
        own = site.own_images(200, seed=seed, classes=CLASSES)
        return Node(own, classes=CLASSES)
    own = site.own_images(200, seed=seed)
    if scenario == "unlabelled":
        return Node(Split(own.images, np.full_like(own.labels, -1)))
    return Node(Split(shifted(own.images, shift), own.labels), shift=shift)


def with_steps(recipe: StudentConfig, steps: float, images: int) -> StudentConfig:
    """Give a recipe so many steps over so many images, warm-up in proportion."""
    per_epoch = max(1, round(images / min(recipe.batch_size, images)))
    epochs = max(1, round(steps / per_epoch))
    warmup = round(recipe.eps_warmup_epochs * epochs / recipe.epochs)
    tuning = recipe.tuning or TuningConfig()
    return recipe.model_copy(
        update={
            "epochs": epochs,
            "eps_warmup_epochs": warmup,
            "tuning": tuning.model_copy(update={"epochs": epochs}),
        }
    )


def train(
    site: Site,
    recipe: StudentConfig,
    node: Node,
    method: str,
    choice: Choice,
    *,
    seed: int,
) -> tuple[nn.Module, float, int]:
    """Make a method's student: the model, its CPU-seconds and the release's bytes.

    Args:
        site: the cloud.
        recipe: of the student.
        node: its images, and how many steps it takes.
        method: of SCENARIOS.
        choice: attack steps, rate and penalty.
        seed: of images, weights and order.
    """
    torch.set_num_threads(1)
    cost = passes(recipe, choice) / PASSES / choice.length
    num_views = choice.views or node.num_views
    if method == "own_only":
        assert node.own is not None
        own = site.plain(node.own, num_views, seed=seed)
        recipe = alone(recipe, choice, site.config.threat.eps)
        recipe = with_steps(recipe, node.free_steps / cost, len(node.own))
        recipe = recipe.model_copy(update={"num_views": num_views})
        fitted = fit_student(recipe, site.task(None, own, seed=seed))
        return fitted.model, fitted.cpu_s.distil, 0
    released = site.transfer(node.released, node.released_views, seed=seed)
    own_known: Known | None = None
    if node.own is not None:
        own_known = site.taught(node.own, num_views, seed=seed, shipped=False)
    num_bytes, start, images = site.release_bytes(released), None, node.released
    if node.own is not None:
        images += len(node.own)
    if node.has_weights:
        start = site.weights(recipe, seed=seed)
        num_bytes += site.weight_bytes(recipe, seed=seed)
        tuning = TuningConfig(learning_rate=choice.rate)
        recipe = recipe.model_copy(update={"tuning": tuning})
        choice = choice._replace(rate=1.0)
    recipe = alone(recipe, choice._replace(method="takt"), site.config.threat.eps)
    if method == "no_teacher":
        recipe = recipe.model_copy(update={"method": "warm_at"})
        released = replace(released, soft_labels=None)
        if own_known is not None:
            own_known = replace(own_known, soft_labels=None)
    recipe = with_steps(recipe, node.steps / cost, images)
    recipe = recipe.model_copy(update={"num_views": node.released_views})
    task = site.task(released, own_known, seed=seed, start=start)
    fitted = fit_student(recipe, task)
    return fitted.model, fitted.cpu_s.distil, num_bytes


def measured(site: Site, model: nn.Module, node: Node, num_images: int) -> Row:
    """Attack a student on stratified test images, of the node's camera.

    Stopped, it goes on when the same student is there again: trainings repeat exactly.
    """
    test = site.data.test
    at = stratified_positions(test.labels, num_images)
    split = Split(shifted(test.images[at], node.shift), test.labels[at])
    x, y = split.tensors()
    found = autoattack_each(
        model,
        x,
        y,
        eps=site.config.threat.eps,
        seed=0,
        state=site.folder / f"{digest_of(model, x, y)[:16]}.autoattack",
    )
    own = np.isin(split.labels, node.classes or range(site.data.num_classes))
    return {
        "num_parameters": num_parameters(model),
        "clean_accuracy": clean_accuracy(model, x, y),
        **robustness(found.evaluation),
        "own_class_robust_accuracy": float(found.robust.numpy()[own].mean()),
        "flags": [*found.evaluation.flags],
    }


def alone(recipe: StudentConfig, choice: Choice, eps: float) -> StudentConfig:
    """Make a training without a teacher of a recipe."""
    size = eps if choice.steps == 1 else max(eps / 4, eps / choice.steps)
    return recipe.model_copy(
        update={
            "method": choice.method,
            "attack": AttackConfig(steps=choice.steps, step_size=min(1.0, size)),
            "learning_rate": recipe.learning_rate * choice.rate,
            "jacobian_weight": recipe.jacobian_weight * choice.slope,
        }
    )


def passes(recipe: StudentConfig, choice: Choice) -> int:
    """Count the passes over a batch of a step."""
    return choice.steps + 1 + (recipe.jacobian_weight * choice.slope > 0)


def choices(recipe: StudentConfig, node: Node, method: str) -> tuple[Choice, ...]:
    """List what the tuning of a method tries."""
    tries = PENALISED if recipe.jacobian_weight else PLAIN
    if method == "own_only":
        return tries["alone"]
    return tries["from weights" if node.has_weights else "from scratch"]


def chosen(site: Site, recipe: StudentConfig, place: Row) -> Choice:
    """Say how a row's student is trained.

    `no_teacher` repeats the training of the `takt` of its seed, with true labels.
    """
    if place["method"] == "no_teacher":
        pair = place | {"method": "takt"}
        for row in read_rows(ROWS):
            if pair.items() <= row.items():
                return Choice(*row["training"])
        place = pair
    return tuned(site, recipe, place)


def tuned(site: Site, recipe: StudentConfig, place: Row) -> Choice:
    """Choose by validation images; a place's tries are made once, of one seed."""
    keys = ("scenario", "shift", "dataset", "student", "jacobian_weight", "method")
    place = {key: place[key] for key in keys}
    node = node_of(site, place["scenario"], place["shift"], TUNING_SEED)
    rows = [row for row in read_rows(TUNING) if place.items() <= row.items()]
    for choice in choices(recipe, node, place["method"]):
        row = place | {"training": [*choice]}
        if any(row.items() <= done.items() for done in rows):
            continue
        model, cpu_s, _ = train(
            site, recipe, node, place["method"], choice, seed=TUNING_SEED
        )
        row |= validated(site, model, node) | {"cpu_s": round(cpu_s, 3)}
        rows.append(row)
        write_rows(TUNING, [*read_rows(TUNING), row])
        print(json.dumps(row), flush=True)
    best = max(rows, key=lambda row: row["val_robust_accuracy"])
    return Choice(*best["training"])


def validated(site: Site, model: nn.Module, node: Node) -> Row:
    """Measure by PGD-20 on the cloud's validation images, as the node's camera sees.

    Where a node has some classes only, the mean of all and of these decides.
    """
    val = site.data.val
    x, y = Split(shifted(val.images, node.shift), val.labels).tensors()
    eps = site.config.threat.eps
    attack = AttackConfig(steps=20, step_size=eps / 8)

    def robust(chosen: torch.Tensor) -> float:
        found = robust_accuracy_pgd(
            model, x[chosen], y[chosen], attack=attack, eps=eps, seed=0
        )
        return found.accuracy

    own = torch.isin(y, torch.tensor(node.classes or range(site.data.num_classes)))
    everything = torch.ones_like(own)
    return {
        "val_robust_accuracy": (robust(everything) + robust(own)) / 2,
        "val_images": len(y),
    }


def main() -> None:
    """Make the rows that are missing."""
    parser = site_parser(__doc__)
    parser.add_argument("--students", nargs="+", default=["tiny"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--scenarios", nargs="+", choices=SCENARIOS, default=[*SCENARIOS]
    )
    parser.add_argument("--test-images", type=int, default=500)
    options = parser.parse_args()
    site = Site.of_options(options)
    for seed, student, scenario in product(
        options.seeds, options.students, options.scenarios
    ):
        recipe = site.config.students[student]
        for shift in SHIFTS if scenario == "camera" else NO_SHIFT:
            node = node_of(site, scenario, shift, seed)
            for method in SCENARIOS[scenario]:
                make_row(site, recipe, node, (scenario, method), seed, options)


def make_row(
    site: Site,
    recipe: StudentConfig,
    node: Node,
    what: tuple[str, str],
    seed: int,
    options: argparse.Namespace,
) -> None:
    """Train and measure one student, unless its row is there."""
    scenario, method = what
    row: Row = {
        "scenario": scenario,
        "shift": node.shift,
        "dataset": site.config.dataset.name,
        "student": recipe.model,
        "jacobian_weight": recipe.jacobian_weight,
        "method": method,
        "seed": seed,
    }
    there = [done for done in read_rows(ROWS) if row.items() <= done.items()]
    choice = None if method == "shipped" else chosen(site, recipe, row)
    # A row is made again where more tries have found a better training.
    if there and (choice is None or there[0]["training"] == [*choice]):
        return
    place, own = dict(row), node.own
    row |= {
        "own_images": 0 if own is None else len(own),
        "own_classes": [*node.classes],
        "labelled": own is None or bool((own.labels >= 0).all()),
    }
    if choice is None:
        model, cpu_s = site.weights(recipe, seed=seed), 0.0
        num_bytes = site.weight_bytes(recipe, seed=seed)
    else:
        model, cpu_s, num_bytes = train(site, recipe, node, method, choice, seed=seed)
        row["training"] = [*choice]
    if choice is None or (method != "own_only" and node.has_weights):
        row["weights"] = site.weights_digest(recipe, seed=seed)
    row |= {"release_bytes": num_bytes, "cpu_s": round(cpu_s, 3)}
    row |= measured(site, model, node, options.test_images)
    others = [done for done in read_rows(ROWS) if not place.items() <= done.items()]
    write_rows(ROWS, [*others, row])
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
