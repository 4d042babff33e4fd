"""What each ingredient of method takt brings: the recipe without it, or with one more.

    .venv/bin/python tests/bench/ablation.py CONFIG STUDENT... [--seeds 0 1 2]

Every variant of a student trains for the same CPU-seconds (those of the grid `full`)
as the config's own recipe, in turns with it, and is measured by AutoAttack standard
on the same test images, by which nothing is chosen here. The rows go to
results/ablation.json as they come; what is there is not made again.
ablation_table.py writes the README's table from them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import read_rows, write_rows
from stage import Stage
from torch import Tensor

from common.attacks import Model
from common.config import AttackConfig, RunConfig, StudentConfig
from common.datasets import Dataset
from common.evaluate import autoattack, clean_accuracy, is_collapsed, predict
from common.models import num_parameters
from deploy.compare_grid import DatasetGrid, load_grid
from deploy.compare_turns import in_turns
from deploy.settings import load_run_config
from edge.crafting import Batch, Setting, craft_warm_by_soft_labels, mixed_labels
from edge.fit import Fitted
from edge.knowledge_reader import Knowledge
from edge.losses import METHODS, Method, takt_loss

ROWS = Path(__file__).parent / "results" / "ablation.json"

Changes = Callable[[StudentConfig], dict[str, Any]]


def afresh(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Begin at noise each time: no delta is kept, none is shipped."""
    return craft_warm_by_soft_labels(
        model, batch._replace(delta=torch.zeros_like(batch.x)), setting
    )


def with_clean_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Add RSLAD's clean term, with its weights (Zi et al., ICCV 2021)."""
    target = mixed_labels(batch, setting)
    clean = F.cross_entropy(model(batch.x), target)
    return (5 * takt_loss(model, batch, delta, setting) + clean) / 6


def weighted_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting, *, sign: float
) -> Tensor:
    """Weigh samples by the teacher's margin m, in units of eps: exp(sign m), mean 1.

    The margin is the distance of the shipped boundary point. A sign of -1 favours
    samples close to the boundary, as GAIRAT does (Zhang et al., ICLR 2021).
    """
    assert batch.boundary is not None
    assert delta is not None
    margin = (batch.boundary.x - batch.x).abs().flatten(1).amax(1)
    weight = torch.softmax(sign * margin / setting.eps, 0)
    loss = F.cross_entropy(
        model(batch.x + delta), mixed_labels(batch, setting), reduction="none"
    )
    return (weight * loss).sum()


# Trained here alone, beside edge.losses' own.
ONLY_HERE = {
    "takt_afresh": Method(afresh, takt_loss),
    "takt_clean": Method(craft_warm_by_soft_labels, with_clean_loss, keeps_deltas=True),
    "takt_near": Method(
        craft_warm_by_soft_labels, partial(weighted_loss, sign=-1.0), keeps_deltas=True
    ),
    "takt_far": Method(
        craft_warm_by_soft_labels, partial(weighted_loss, sign=1.0), keeps_deltas=True
    ),
}


def no_changes(recipe: StudentConfig) -> dict[str, Any]:
    """Leave the recipe as it is."""
    return {}


@dataclass(frozen=True)
class Variant:
    """How a training differs from the config's recipe."""

    changes: Changes = no_changes
    deltas: bool = True  # shipped
    boundary: bool = False  # points and margins are read
    safeguard: bool = True


def _steps(count: int) -> Changes:
    """Change the number of steps, each of 2 / count of eps, at most eps."""

    def changes(recipe: StudentConfig) -> dict[str, Any]:
        reach = recipe.attack.steps * recipe.attack.step_size
        attack = AttackConfig(steps=count, step_size=min(2 * reach / count, reach))
        return {"attack": attack}

    return changes


VARIANTS: dict[str, Variant] = {
    "takt": Variant(),
    "no soft labels": Variant(lambda r: {"label_weight": 1.0}),
    "soft labels alone": Variant(lambda r: {"label_weight": 0.0}),
    "label weight 0.5": Variant(lambda r: {"label_weight": 0.5}),
    "no shipped deltas": Variant(deltas=False),
    "no kept deltas": Variant(lambda r: {"method": "takt_afresh"}, deltas=False),
    "no noise": Variant(lambda r: {"noise": 0.0}),
    "no eps warm-up": Variant(lambda r: {"eps_warmup_epochs": 0}),
    "no weight averaging": Variant(lambda r: {"ema_decay": 0.0}),
    "no gradient clipping": Variant(lambda r: {"max_gradient_norm": 0.0}),
    "no safeguard": Variant(safeguard=False),
    "10 attack steps": Variant(_steps(10)),
    "clean term": Variant(lambda r: {"method": "takt_clean"}),
    "boundary points": Variant(lambda r: {"boundary_weight": 0.25}, boundary=True),
    "small margins first": Variant(lambda r: {"method": "takt_near"}, boundary=True),
    "large margins first": Variant(lambda r: {"method": "takt_far"}, boundary=True),
}


def differs(name: str, own: StudentConfig) -> bool:
    """Say whether a variant is another training than the recipe itself."""
    variant = VARIANTS[name]
    changed = own.model_copy(update=variant.changes(own)) != own
    return (
        name == "takt" or changed or replace(variant, changes=no_changes) != Variant()
    )


def knowledge_for(variant: Variant, recipe: StudentConfig, stage: Stage) -> Knowledge:
    """Read what a variant uses of the release."""
    weight = 1.0 if variant.boundary else 0.0
    asked = recipe.model_copy(update={"boundary_weight": weight})
    knowledge = stage.knowledge(asked)
    return knowledge if variant.deltas else replace(knowledge, delta_signs=None)


def train_group(
    names: list[str], own: StudentConfig, stage: Stage, seed: int, budget_s: float
) -> list[Fitted]:
    """Train variants of one student in turns, each for the budget."""
    trainings = []
    for name in names:
        variant = VARIANTS[name]
        trainings.append(
            stage.training(
                own.model_copy(update=variant.changes(own)),
                seed=seed,
                cpu_budget_s=budget_s,
                knowledge=knowledge_for(variant, own, stage),
                safeguard=variant.safeguard,
            )
        )
    return in_turns(trainings)


def row(
    name: str,
    fitted: Fitted,
    config: RunConfig,
    student: str,
    seed: int,
    part: DatasetGrid,
    dataset: Dataset,
) -> dict[str, Any]:
    """Measure a trained variant."""
    x, y = dataset.test.tensors()
    count = min(len(x), part.num_images)
    found = autoattack(
        fitted.model, x[:count], y[:count], eps=config.threat.eps, seed=0
    )
    collapsed = is_collapsed(predict(fitted.model, x), dataset.num_classes, labels=y)
    flags = [*fitted.flags, *found.flags, *(["collapsed"] if collapsed else [])]
    return {
        "dataset": config.dataset.name,
        "student": config.students[student].model,
        "num_parameters": num_parameters(fitted.model),
        "variant": name,
        "seed": seed,
        "cpu_s": round(fitted.cpu_s.distil, 3),
        "epochs": fitted.epochs,
        "clean_accuracy": clean_accuracy(fitted.model, x, y),
        "robust_accuracy": found.accuracy,
        "attack": found.attack,
        "version": found.version,
        "num_images": found.num_images,
        "eps": found.eps,
        "norm": found.norm,
        "flags": flags,
    }


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    METHODS.update(ONLY_HERE)
    overrides: dict[str, object] = {
        "knowledge.contents": ["soft_labels", "deltas", "boundary_points"]
    }
    if options.data_dir:
        overrides["dataset.data_dir"] = options.data_dir
    config, _ = load_run_config(options.config, overrides)
    grid = load_grid("full").datasets
    part = next(part for part in grid if part.config == options.config)
    stage = Stage.prepare(config, options.work)
    rows = read_rows(ROWS)
    for seed in options.seeds:
        for student in options.students:
            recipe = config.students[student]
            own = (config.dataset.name, recipe.model, seed)
            keys = ("dataset", "student", "seed", "variant")
            done = {tuple(row[key] for key in keys) for row in rows}
            names = [
                name
                for name in options.variants
                if (*own, name) not in done and differs(name, recipe)
            ]
            if not names:
                continue
            fits = train_group(names, recipe, stage, seed, part.cpu_budget_s[student])
            for name, fitted in zip(names, fits, strict=True):
                rows.append(row(name, fitted, config, student, seed, part, stage.data))
                write_rows(ROWS, rows)
                print(*own, name, rows[-1]["robust_accuracy"], flush=True)


if __name__ == "__main__":
    main()
