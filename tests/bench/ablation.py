"""What each ingredient of method takt brings: the recipe without it, or with one more.

    .venv/bin/python tests/bench/ablation.py CONFIG STUDENT... [--seeds 0 1 2]

Every variant of a student trains for the same CPU-seconds (those of the grid `full`),
interleaved with the recipe itself, and is measured by AutoAttack standard on the same
test images, by which nothing is chosen here. The rows go to results/ablation.json as
they come; what is there is not made again. ablation_table.py writes the page's table
from them.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import read_rows, write_rows
from stage import Stage
from torch import Tensor

from common.config import AttackConfig, StudentConfig
from common.models.forward import Model
from deploy.compare.grid import load_grid
from deploy.compare.interleave import interleave
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Batch, Setting
from edge.distill.fitting.fit import Fitted
from edge.distill.knowledge import Knowledge
from edge.distill.methods.crafting import craft_warm_by_soft_labels, mixed_labels
from edge.distill.methods.losses import METHODS, Method, takt_loss

ROWS = Path(__file__).parent / "results" / "ablation.json"


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


# Trained here alone, beside edge.distill.methods.losses' own.
ONLY_HERE = {
    "takt_afresh": Method(afresh, takt_loss),
    "takt_clean": Method(
        craft_warm_by_soft_labels, with_clean_loss, keeps_deltas="signs"
    ),
    "takt_near": Method(
        craft_warm_by_soft_labels,
        partial(weighted_loss, sign=-1.0),
        keeps_deltas="signs",
    ),
    "takt_far": Method(
        craft_warm_by_soft_labels,
        partial(weighted_loss, sign=1.0),
        keeps_deltas="signs",
    ),
}


@dataclass(frozen=True)
class Variant:
    """How a training differs from the config's recipe."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None  # of the attack; together they reach twice as far
    deltas: bool = False  # shipped ones are where it begins
    boundary: bool = False  # points and margins are read
    guard_overfitting: bool = True

    def recipe(self, own: StudentConfig) -> StudentConfig:
        """Change the config's recipe."""
        changed = own.model_copy(update=self.changes)
        if self.steps is None:
            return changed
        reach = own.attack.steps * own.attack.step_size
        step_size = min(2 * reach / self.steps, reach)
        attack = AttackConfig(steps=self.steps, step_size=step_size)
        return changed.model_copy(update={"attack": attack})

    def knowledge(self, whole: Knowledge) -> Knowledge:
        """Leave out what it does not use of the whole knowledge."""
        return replace(
            whole,
            delta_signs=whole.delta_signs if self.deltas else None,
            boundary=whole.boundary if self.boundary else None,
        )


VARIANTS: dict[str, Variant] = {
    "takt": Variant(),
    "no soft labels": Variant({"label_weight": 1.0}),
    "soft labels alone": Variant({"label_weight": 0.0}),
    "label weight 0.5": Variant({"label_weight": 0.5}),
    "no kept deltas": Variant({"method": "takt_afresh"}),
    "no noise": Variant({"noise": 0.0}),
    "no eps warm-up": Variant({"eps_warmup_epochs": 0}),
    "no weight averaging": Variant({"ema_decay": 0.0}),
    "no gradient clipping": Variant({"max_gradient_norm": 0.0}),
    "no safeguard": Variant(guard_overfitting=False),
    "10 attack steps": Variant(steps=10),
    "shipped deltas": Variant(deltas=True),
    "clean term": Variant({"method": "takt_clean"}),
    "boundary points": Variant({"boundary_weight": 0.25}, boundary=True),
    "small margins first": Variant({"method": "takt_near"}, boundary=True),
    "large margins first": Variant({"method": "takt_far"}, boundary=True),
}


def differs(name: str, own: StudentConfig) -> bool:
    """Say whether a variant is another training than the recipe itself."""
    variant = VARIANTS[name]
    rest = replace(variant, changes={}, steps=None)
    return name == "takt" or variant.recipe(own) != own or rest != Variant()


def train_group(
    names: list[str], own: StudentConfig, stage: Stage, seed: int, budget_s: float
) -> list[Fitted]:
    """Train variants of one student interleaved, each for the budget."""
    whole = stage.knowledge(own.model_copy(update={"boundary_weight": 1.0}))
    return interleave(
        [
            stage.training(
                variant.recipe(own),
                seed=seed,
                cpu_budget_s=budget_s,
                knowledge=variant.knowledge(whole),
                guard_overfitting=variant.guard_overfitting,
            )
            for variant in map(VARIANTS.__getitem__, names)
        ]
    )


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
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
                rows.append(
                    {
                        "dataset": config.dataset.name,
                        "student": recipe.model,
                        "variant": name,
                        "seed": seed,
                        **stage.measured(fitted, part.num_images),
                    }
                )
                write_rows(ROWS, rows)
                print(*own, name, rows[-1]["robust_accuracy"], flush=True)


if __name__ == "__main__":
    main()
