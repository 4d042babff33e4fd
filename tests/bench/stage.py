"""One teacher's knowledge, and students trained on it interleaved, for benches.

Not here: which students, and what is asked of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rows import Row, robustness
from torch import nn

from common.config import AttackConfig, RunConfig, StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.models.zoo import num_parameters
from common.release import Manifest
from common.robustness.autoattack import autoattack_each
from common.robustness.evaluate import (
    clean_accuracy,
    is_collapsed,
    predict,
    robust_accuracy_pgd,
)
from deploy.compare.interleave import YieldCpu
from deploy.compare.teacher import Train, prepare_stage
from edge.distill.batch import Images
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.knowledge import Knowledge, read_knowledge, read_manifest
from edge.distill.task import Task


@dataclass(frozen=True)
class Stage:
    """What a teacher says of the training images of a config."""

    data: Dataset
    train: Images
    val: Images
    manifest: Manifest
    release: Path

    @classmethod
    def prepare(
        cls,
        config: RunConfig,
        work: Path,
        *,
        teacher: Path | None = None,
        train: Train | None = None,
    ) -> "Stage":
        """Take up the config's teacher and knowledge in a folder, or make them."""
        release = prepare_stage(
            config, work, lambda step, share: None, teacher=teacher, train=train
        )
        data = load_dataset(config.dataset, seed=config.seed)
        own, val = (Images.of(split) for split in (data.train, data.val))
        return cls(data, own, val, read_manifest(release), release)

    def at_temperature(self, temperature: float) -> "Stage":
        """Return it with soft labels of another temperature."""
        changed = self.manifest.model_copy(update={"temperature": temperature})
        return replace(self, manifest=changed)

    def knowledge(self, recipe: StudentConfig) -> Knowledge:
        """Read what a recipe needs."""
        return read_knowledge(self.manifest, self.release, recipe)

    def task(self, knowledge: Knowledge, *, seed: int) -> Task:
        """Describe a training on these images and some knowledge of them."""
        return Task.of_release(
            self.manifest,
            train=self.train,
            val=self.val,
            knowledge=knowledge,
            seed=seed,
        )

    def training(
        self,
        recipe: StudentConfig,
        *,
        seed: int,
        cpu_budget_s: float,
        knowledge: Knowledge | None = None,
        guard_overfitting: bool = True,
        start: nn.Module | None = None,
    ) -> Callable[[YieldCpu], Fitted]:
        """Describe a training that yields after each epoch (see interleave)."""

        def train(yield_cpu: YieldCpu) -> Fitted:
            torch.set_num_threads(1)  # of this thread
            task = replace(
                self.task(knowledge or self.knowledge(recipe), seed=seed),
                cpu_budget_s=cpu_budget_s,
                guard_overfitting=guard_overfitting,
                start=None if start is None else start.state_dict(),
            )
            return fit_student(
                recipe, task, on_epoch=lambda point: yield_cpu(point.cpu_s)
            )

        return train

    def measured(
        self, fitted: Fitted, num_images: int, *, state: Path | None = None
    ) -> Row:
        """Measure a student on the first test images by AutoAttack, as columns.

        With a file for its state, an attack that was stopped goes on.
        """
        x, y = self.data.test.tensors()
        found = autoattack_each(
            fitted.model,
            x[:num_images],
            y[:num_images],
            eps=self.manifest.eps,
            seed=0,
            state=state,
        ).evaluation
        classes = predict(fitted.model, x)
        collapsed = is_collapsed(classes, self.manifest.num_classes, labels=y)
        return {
            "num_parameters": num_parameters(fitted.model),
            "cpu_s": round(fitted.cpu_s.distil, 3),
            "epochs": fitted.epochs,
            "clean_accuracy": clean_accuracy(fitted.model, x, y),
            **robustness(found),
            "flags": [
                *fitted.flags,
                *found.flags,
                *(["collapsed"] if collapsed else []),
            ],
        }

    def val_accuracies(self, model: nn.Module) -> tuple[float, float]:
        """Measure clean and PGD-20 accuracy on the validation images."""
        x, y = self.data.val.tensors()
        eps = self.manifest.eps
        attack = AttackConfig(steps=20, step_size=eps / 8)
        robust = robust_accuracy_pgd(model, x, y, attack=attack, eps=eps, seed=0)
        return clean_accuracy(model, x, y), robust.accuracy
