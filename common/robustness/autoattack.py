"""AutoAttack (Croce and Hein, ICML 2020) through `pyautoattack`, with its checks on.

The authors' package warns through the logger ``auto-attack``; here each warning
becomes a flag of the evaluation:

    randomized               outputs differ between passes
    probabilities            the model seems to return probabilities, not logits
    zero_gradients           points without gradient in the DLR loss
    square_below_gradients   the black-box attack got further than the gradient
                             attacks: a sign of masked gradients
    dynamic                  the model runs an optimisation in its forward pass
    fewer_target_classes     less than ten classes: all wrong ones are targeted
    no_targeted_dlr          less than four classes: the targeted DLR loss does not
                             exist and an attack is left out (version "custom")
    pgd_below_autoattack     a short PGD breaks more images than AutoAttack

An evaluation that is given a file goes on from it when it was stopped
(attack_record.py). Not thread-safe: the package's logger and check counters are global.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.records import Evaluation
from common.robustness.attack_record import AttackRecord, digest_of
from common.robustness.attacks import pgd
from common.robustness.sanity import batches, evaluating, predict

Progress = Callable[[float], None]

_FLAGS = {
    "randomized defense": "randomized",
    "probability distribution": "probabilities",
    "zero gradient": "zero_gradients",
    "Square Attack has decreased": "square_below_gradients",
    "dynamic defense": "dynamic",
}
# Rough share of the CPU time on small nets, for the progress only.
_SHARES = {"apgd-ce": 2, "apgd-dlr": 2, "apgd-t": 18, "fab-t": 50, "square": 30}
_BATCH_DONE = re.compile(r"(\S+) - (\d+)/(\d+) - ")
_TOLERANCE = 1e-5  # pixel scale; float32 rounding of x + delta stays below 1e-6


class _Listener(logging.Handler):
    """Turn the package's log records into flags and progress."""

    def __init__(self, attacks: list[str], progress: Progress | None) -> None:
        super().__init__(logging.DEBUG)
        self.flags: set[str] = set()
        self._attacks = attacks
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            known = [flag for text, flag in _FLAGS.items() if text in message]
            self.flags.update(known or ["other_warning"])
        match = _BATCH_DONE.match(message)
        if match and self._progress and match[1] in self._attacks:
            before = self._attacks[: self._attacks.index(match[1])]
            done = float(sum(_SHARES[name] for name in before))
            done += _SHARES[match[1]] * int(match[2]) / int(match[3])
            self._progress(done / sum(_SHARES[name] for name in self._attacks))


@dataclass(frozen=True)
class Attacked:
    """A robust accuracy, and which of the images it counts."""

    evaluation: Evaluation
    robust: Tensor  # bool (N,), on the CPU
    x_adv: Tensor  # (N, C, H, W), on the CPU; the image itself where nothing broke it


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int,
    version: str = "standard",
    batch_size: int = 512,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the accuracy under AutoAttack, norm Linf; see `autoattack_each`."""
    return autoattack_each(
        model,
        x,
        y,
        eps=eps,
        seed=seed,
        version=version,
        batch_size=batch_size,
        progress=progress,
    ).evaluation


def autoattack_each(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int,
    version: str = "standard",
    attacks: Sequence[str] | None = None,
    batch_size: int = 512,
    progress: Progress | None = None,
    state: Path | None = None,
) -> Attacked:
    """Attack images with AutoAttack, norm Linf; say of each whether it held.

    An image counts as robust when no attack of the ensemble changed its class and
    the model still says so on the adversarial image that came back.

    Args:
        model: x in [0, 1] -> logits; attacked in eval mode, on its own device.
        x: (N, C, H, W) in [0, 1], N >= 1.
        y: labels (N,).
        eps: radius, pixel scale.
        seed: of all attacks; torch's global generator is put back afterwards.
        version: "standard", or another of the package's; "custom" with `attacks`.
        attacks: of the ensemble, these alone; None: those of the version.
        batch_size: images per forward pass; larger is faster, in bounds.
        progress: called with the fraction done, increasing to 1.
        state: a file that is written after each batch of an attack and deleted at the
            end; the same evaluation, started again, goes on from it with the same
            result. Its folder must exist; None keeps nothing.

    Raises:
        ValueError: there are no images.
        StorageError: the state cannot be written.
        AssertionError: an adversarial image lies outside the ball or [0, 1].
    """
    if len(x) == 0:
        raise ValueError("autoattack needs at least one image")
    from pyautoattack import AutoAttack

    with evaluating(model) as device, _own_random_state(device):
        with torch.no_grad():
            num_classes = model(x[:1].to(device)).shape[1]
        runner = AutoAttack(
            model, eps=eps, norm="Linf", seed=seed, version=version, device=device
        )
        if attacks is not None:
            runner.attacks_to_run = [*attacks]
        flags, version = _limit_to_classes(runner, num_classes, version)
        listener = _Listener(list(runner.attacks_to_run), progress)
        record = None
        if state is not None:
            digest = _digest(runner, model, x, y, batch_size)
            record = AttackRecord(state, digest, device=device, flags=listener.flags)
            record.attach(runner)
        x_adv, predictions, robust = _attack(runner, listener, model, x, y, batch_size)
        accuracy = float(robust.double().mean())
        if bool((predictions < 0).any()):
            flags.add("non_finite_logits")
        if _pgd_accuracy(model, x, y, eps, seed, batch_size, device) < accuracy:
            flags.add("pgd_below_autoattack")
    if record is not None:
        record.remove()
    if progress:
        progress(1.0)
    evaluation = Evaluation(
        attack="autoattack",
        version=version,
        norm="Linf",
        eps=eps,
        num_images=len(x),
        accuracy=accuracy,
        seed=seed,
        flags=tuple(sorted(flags | listener.flags)),
    )
    return Attacked(evaluation, robust, x_adv.cpu())


def square_each(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int,
    progress: Progress | None = None,
) -> Tensor:
    """Attack images with AutoAttack's Square alone; say of each whether it held.

    Square (Andriushchenko et al., ECCV 2020) asks for logits only: it attacks a model
    that has no gradients.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1], N >= 1, all of them classified correctly.
        y: labels (N,).
        eps: radius, pixel scale.
        seed: of the attack.
        progress: called with the fraction done.

    Returns:
        bool (N,), on the CPU.
    """
    from pyautoattack import AutoAttack

    with evaluating(model) as device, _own_random_state(device):
        runner = AutoAttack(
            model, eps=eps, norm="Linf", seed=seed, version="custom", device=device
        )
        runner.attacks_to_run = ["square"]
        listener = _Listener(runner.attacks_to_run, progress)
        return _attack(runner, listener, model, x, y)[2]


def _attack(
    runner: Any,
    listener: _Listener,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int = 512,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the package's attacks on images.

    Returns:
        x_adv (N, C, H, W), the classes predicted for it (N,), and of which images no
        attack changed the class: bool (N,). The latter two are on the CPU.
    """
    with _listening(listener), _restored_trace():
        x_adv, y_adv = runner.run_standard_evaluation(x, y, batch_size=batch_size)
    check_ball(x, x_adv, runner.epsilon)
    predictions = predict(model, x_adv, batch_size)
    return x_adv, predictions, (predictions == y.cpu()) & (y_adv.cpu() == y.cpu())


def _digest(
    runner: Any, model: nn.Module, x: Tensor, y: Tensor, batch_size: int
) -> str:
    """Digest all that decides what the package's attacks find, and on which device."""
    return digest_of(
        model,
        x,
        y,
        package=version_of("pyautoattack"),
        torch=torch.__version__,
        device=str(runner.device),
        eps=runner.epsilon,
        norm=runner.norm,
        seed=runner.seed,
        version=runner.version,
        attacks=[*runner.attacks_to_run],
        batch_size=batch_size,
    )


def _limit_to_classes(
    runner: Any, num_classes: int, version: str
) -> tuple[set[str], str]:
    """Limit the targeted attacks to the number of classes."""
    flags: set[str] = set()
    targets = num_classes - 1
    if targets < runner.fab.n_target_classes:
        flags.add("fewer_target_classes")
        runner.fab.n_target_classes = targets
        runner.apgd_targeted.n_target_classes = targets
    impossible = {"apgd-t"} if num_classes < 4 else set()
    impossible |= {"apgd-dlr"} if num_classes < 3 else set()
    if impossible & set(runner.attacks_to_run):
        kept = [a for a in runner.attacks_to_run if a not in impossible]
        if num_classes == 3 and "apgd-dlr" not in kept:
            kept.insert(1, "apgd-dlr")  # the untargeted loss needs only three
        runner.attacks_to_run = kept
        return flags | {"no_targeted_dlr"}, "custom"
    return flags, version


def check_ball(x: Tensor, x_adv: Tensor, eps: float) -> None:
    """Assert that x_adv (N, C, H, W) lies within eps of x and in [0, 1]."""
    distance = float((x_adv - x).abs().max())
    low, high = float(x_adv.min()), float(x_adv.max())
    assert distance <= eps + _TOLERANCE, f"x_adv is {distance} from x, eps is {eps}"
    assert low >= 0 and high <= 1, f"x_adv reaches from {low} to {high}"


def _pgd_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> float:
    """Measure the accuracy under ten PGD steps of a quarter eps."""
    generator = torch.Generator(device).manual_seed(seed)
    num_correct = 0
    for x_part, y_part in batches(x, y, batch_size):
        x_adv = pgd(
            model,
            x_part.to(device),
            y_part.to(device),
            eps=eps,
            step_size=eps / 4,
            steps=10,
            random_start=True,
            generator=generator,
        )
        num_correct += int((predict(model, x_adv, batch_size) == y_part.cpu()).sum())
    return num_correct / len(x)


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Keep the package's global seeding from reaching the caller."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _listening(listener: logging.Handler) -> Iterator[None]:
    """Handle the package's log records, and keep them off the terminal."""
    logger = logging.getLogger("auto-attack")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _restored_trace() -> Iterator[None]:
    """Undo what the package's check for dynamic models leaves behind.

    It removes any trace function (of a debugger, of coverage) and its call
    counters are never reset, so that one dynamic model would flag all later ones.
    """
    from pyautoattack import checks

    trace = sys.gettrace()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(trace)
