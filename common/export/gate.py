"""Whether an exported student is still as good: measured, before its file gets a name.

Two attacks, the lower counts. AutoAttack's adversarial images, made on the float
student, whose gradients exist, are shown to both: an exported file answers almost as
that one does, so they transfer. Square (Andriushchenko et al., ECCV 2020), which asks
for logits alone, attacks the exported file itself, for what quantisation may have
opened, on the images that the file still holds. Not here: making the file (encode.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import StudentError
from common.export.bounds import DEFAULT_BOUNDS, Bounds
from common.export.session import OnnxStudent
from common.robustness.autoattack import autoattack_each, square_each
from common.robustness.evaluate import predict

OnProgress = Callable[[str, float], None]

_BATCH = 256
_EXACT = 1e-9  # of differences of fractions
_ROUNDING = 1e-3  # between two libraries in float32, of the largest logit


@dataclass(frozen=True)
class GateFigures:
    """What was measured of an exported file and of the float student; fractions."""

    num_images: int
    num_attacked: int
    logits_difference: float  # the largest, as a share of the largest logit
    same_class: float
    clean_before: float
    clean_after: float
    robust_before: float  # AutoAttack on the float student
    robust_after: float  # its images and Square's own, on the exported file


def measure(
    model: nn.Module,
    exported: OnnxStudent,
    x: Tensor,
    y: Tensor,
    *,
    num_attacked: int,
    eps: float,
    seed: int,
    on_progress: OnProgress = lambda stage, share: None,
) -> GateFigures:
    """Compare an exported file with its float student.

    Args:
        model: the float student, x in [0, 1] -> logits, on the CPU.
        exported: the file.
        x: (N, C, H, W) in [0, 1]; none of them trained on.
        y: labels (N,).
        num_attacked: how many of the first images are attacked.
        eps: radius in pixel scale, norm Linf.
        seed: of the attacks.
        on_progress: called with what is attacked, and the share of it that is done.
    """
    file = _Answers(exported)
    with torch.no_grad():
        before = torch.cat([model(part) for part in torch.split(x, _BATCH)])
        after = torch.cat([file(part) for part in torch.split(x, _BATCH)])
    largest = float(before.abs().max())
    classes, others = before.argmax(1), after.argmax(1)
    x, labels = x[:num_attacked], y[:num_attacked]
    attacked = autoattack_each(
        model,
        x,
        labels,
        eps=eps,
        seed=seed,
        progress=partial(on_progress, "AutoAttack on the student"),
    )
    holds = predict(file, attacked.x_adv) == labels
    holds &= predict(file, x) == labels
    kept = holds.nonzero().flatten()
    if len(kept):
        holds[kept] = square_each(
            file,
            x[kept],
            labels[kept],
            eps=eps,
            seed=seed,
            progress=partial(on_progress, "Square on the file"),
        )
    return GateFigures(
        num_images=len(y),
        num_attacked=len(labels),
        logits_difference=float((before - after).abs().max()) / max(largest, 1e-9),
        same_class=float((classes == others).double().mean()),
        clean_before=float((classes == y).double().mean()),
        clean_after=float((others == y).double().mean()),
        robust_before=attacked.evaluation.accuracy,
        robust_after=float(holds.double().mean()),
    )


def require_as_good(
    figures: GateFigures, format: str, *, bounds: Bounds = DEFAULT_BOUNDS
) -> None:
    """Refuse a file that answers worse than its float student.

    One image may always be lost: of few images it is more than the bounds.

    Raises:
        StudentError: it does; with the figures.
    """
    clean = figures.clean_before - figures.clean_after
    robust = figures.robust_before - figures.robust_after
    if format == "onnx" and figures.logits_difference > _ROUNDING:
        raise StudentError(
            f"the exported file answers otherwise than its student: logits differ by "
            f"{figures.logits_difference:.2%} of the largest; nothing was written"
        )
    worse = clean > max(bounds.clean, 1 / figures.num_images) + _EXACT
    worse |= robust > max(bounds.robust, 1 / figures.num_attacked) + _EXACT
    if worse:
        raise StudentError(
            f"the exported file is worse than its student: {describe(figures)}; "
            f"allowed are {100 * bounds.clean:g} points clean and "
            f"{100 * bounds.robust:g} robust (--max-clean-drop, "
            "--max-robust-drop); nothing was written"
        )


def describe(figures: GateFigures) -> str:
    """Say what was measured, in one line."""
    return (
        f"clean {figures.clean_before:.1%} -> {figures.clean_after:.1%} of "
        f"{figures.num_images} images, robust {figures.robust_before:.1%} -> "
        f"{figures.robust_after:.1%} of {figures.num_attacked} (AutoAttack's images "
        f"and Square), the same class for {figures.same_class:.1%}"
    )


class _Answers(nn.Module):
    """An exported file as a module without gradients."""

    def __init__(self, exported: OnnxStudent) -> None:
        super().__init__()
        self._exported = exported

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) to logits (N, K)."""
        pixels = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        return torch.from_numpy(self._exported.logits(pixels))
