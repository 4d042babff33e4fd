"""Measuring a student: the images stay bytes until a batch of them is looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_site import job_for
from release_drafts import draft
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transfer_site import write_transfer_release

from common.config import AttackConfig, OwnImagesConfig
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from edge.distill.batch import Images
from edge.distill.knowledge import read_manifest
from edge.distill.measure import measure
from edge.distill.prepare import prepare

BLOCK = 512  # images that are measured at a time
MANIFEST = draft(node_attack_steps=2, node_attack_step_size=0.05)


class MostImages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many images the largest tensor of floats has that comes up."""

    count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do an operation of torch, and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor) and each.is_floating_point() and each.dim() > 3:
                self.count = max(self.count, len(each))
        return made


def images(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(x, torch.arange(count) % 10)


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("kind", ["own", "release"])
def test_of_many_validation_images_a_block_at_a_time_becomes_floats(kind: str) -> None:
    found = {"own": images(0), "release": images(0), kind: images(3 * BLOCK - 1)}
    with MostImages() as most:  # type: ignore[no-untyped-call]
        measure(student(), found["own"], found["release"], MANIFEST, seed=0)
    assert most.count == BLOCK


def test_figures_of_bytes_are_those_of_the_same_images_as_floats() -> None:
    given = images(2 * BLOCK + 100)
    x, y = given.batch(torch.arange(len(given.y)))
    model = student()
    attack = AttackConfig(steps=2, step_size=0.05)
    measured = measure(model, given, images(0), MANIFEST, seed=3).main
    assert measured.clean_accuracy == clean_accuracy(model, x, y)
    assert measured.robust == robust_accuracy_pgd(
        model, x, y, attack=attack, eps=MANIFEST.eps, seed=3
    )


def test_labels_of_many_own_images_are_looked_at_in_blocks(tmp_path: Path) -> None:
    release = write_transfer_release(tmp_path)
    own = OwnImagesConfig(images=730)
    job = job_for(release, tmp_path / "work", own=own)
    with MostImages() as most:  # type: ignore[no-untyped-call]
        ready = prepare(job, read_manifest(release), should_stop=lambda: False)
    assert ready.num_labelled > BLOCK
    assert most.count == BLOCK
