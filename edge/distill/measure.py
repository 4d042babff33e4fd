"""How good a student is on validation images: the node's own, and the release's.

Not here: what follows from it (edge.daemon.promotion), AutoAttack (deploy.evaluation).
"""

import math
from typing import NamedTuple

from torch import nn

from common.config import AttackConfig
from common.records import Evaluation
from common.release import Manifest
from common.robustness.evaluate import is_collapsed, predict, robust_accuracy_pgd
from edge.distill.batch import Images
from edge.jobs.job import RobustAccuracies, has_forgotten


class Score(NamedTuple):
    """A student's accuracy on some images."""

    clean_accuracy: float
    robust: Evaluation
    collapsed: bool  # it predicts nearly always the same class


class Scores(NamedTuple):
    """The same on both kinds of validation images; None where there are none."""

    own: Score | None
    release: Score | None

    @property
    def main(self) -> Score:
        """Return what a node goes by: its own images where it has some."""
        score = self.own or self.release
        assert score is not None, "no validation images"
        return score

    @property
    def collapsed(self) -> bool:
        """Whether the student is; the release's images are of all classes."""
        score = self.release or self.own
        return score is not None and score.collapsed

    def robust_accuracies(self) -> RobustAccuracies:
        """Return the robust accuracies alone."""
        own, release = self
        return RobustAccuracies(
            own_robust=own.robust.accuracy if own else None,
            release_robust=release.robust.accuracy if release else None,
        )


def measure(
    student: nn.Module, own: Images, release: Images, manifest: Manifest, *, seed: int
) -> Scores:
    """Measure clean accuracy, PGD and collapse on all validation images."""
    return Scores(
        _score(student, own, manifest, seed), _score(student, release, manifest, seed)
    )


def is_worse(trained: Scores, shipped: Scores, max_forgetting: float) -> bool:
    """Tell whether a training did its starting weights no good.

    It did not where the student is less robust, beyond chance, on the images that the
    node goes by, or where it lost more than `max_forgetting` on the release's.
    """
    new, old = trained.main.robust, shipped.main.robust
    chance = math.sqrt(0.25 / new.num_images)  # a standard error, at most
    if new.accuracy < old.accuracy - chance:
        return True
    before = shipped.robust_accuracies().release_robust
    now = trained.robust_accuracies().release_robust
    return has_forgotten(before, now, max_forgetting)


def _score(
    student: nn.Module, images: Images, manifest: Manifest, seed: int
) -> Score | None:
    if len(images.y) == 0:
        return None
    # As bytes: on a small node all of them as float32 could be what is too much.
    x, y = images.x, images.y
    classes = predict(student, x)
    attack = AttackConfig(
        steps=manifest.node_attack_steps, step_size=manifest.node_attack_step_size
    )
    robust = robust_accuracy_pgd(
        student, x, y, attack=attack, eps=manifest.eps, seed=seed
    )
    return Score(
        clean_accuracy=float((classes == y).double().mean()),
        robust=robust,
        collapsed=is_collapsed(classes, manifest.num_classes, labels=y),
    )
