"""What a model costs: parameters, multiply-adds, bytes, memory of a training step.

The memory is measured, in this process: how far it grows while the model is built and
trained for two steps as a node trains a student, attack and copies included; and before
that, while the model's package is imported and checked. What torch itself takes is in
neither. Not here: a student's whole cost within a node's caps (student.py), names
(common.model_names).
"""

import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.model_names import KnownModel, check_model, installed_version, known_models
from common.records import Record

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

_STEPS = 2  # the second one with momenta and an average that are there
_EPS = 0.1


class ModelFacts(Record):
    """A model for images of one shape, as `takt models show` tells of it."""

    name: str
    package: str  # with its version
    in_channels: int
    image_size: int
    num_classes: int
    num_parameters: int
    num_macs: int  # of a forward pass of one image; attention's products left out
    file_bytes: int  # of its file, float32
    shipped_bytes: int  # as starting weights in a release, fp16
    batch_size: int
    # Measured; None: a process cannot measure its peak here.
    package_memory_mib: float | None  # of importing the package; 0 for takt's own
    step_memory_mib: float | None


def list_models(*, as_json: bool, console: "Console") -> None:
    """Print which models can be named here; imports no package."""
    found = list(known_models())
    if as_json:
        print(json.dumps([each._asdict() for each in found], indent=1))
        return
    for package, models in _by_package(found).items():
        names = ", ".join(
            each.name if each.is_student else f"{each.name} (a teacher only)"
            for each in models
        )
        console.print(f"{package}: {names}", highlight=False)


def show_model(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    num_classes: int,
    batch_size: int,
    as_json: bool,
) -> None:
    """Check a model, measure it and print what it costs.

    Raises:
        ConfigError: there is none of that name, it cannot be built for such images, or
            it is not what takt asks of a model.
    """
    facts = measure_model(
        name,
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        batch_size=batch_size,
    )
    if as_json:
        print(facts.model_dump_json(indent=1))
        return
    print("\n".join(_lines(facts)))


def measure_model(
    name: str, *, in_channels: int, image_size: int, num_classes: int, batch_size: int
) -> ModelFacts:
    """Check a model, build it, train it for two steps, and count; see `ModelFacts`.

    Raises:
        ConfigError: as `show_model`.
    """
    check_model(name)
    import torch

    from common.models.contract import check_contract
    from common.models.zoo import num_macs, num_parameters, shipped_bytes

    shape = (in_channels, image_size, image_size)
    x, y = torch.rand(batch_size, *shape), torch.arange(batch_size) % num_classes
    _train("cnn_tiny", x, y, num_classes)  # what torch takes for its first steps
    before = _reset_peak()
    check_contract(
        name, in_channels=in_channels, image_size=image_size, num_classes=num_classes
    )
    checked = _reset_peak()
    model = _train(name, x, y, num_classes)
    values = list(model.state_dict().values())
    return ModelFacts(
        name=name,
        package=installed_version(name),
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        num_parameters=num_parameters(model),
        num_macs=num_macs(model, shape),
        file_bytes=sum(v.numel() * v.element_size() for v in values),
        shipped_bytes=shipped_bytes(model),
        batch_size=batch_size,
        package_memory_mib=_grown(before, checked),
        step_memory_mib=_grown(checked, _peak_mib()),
    )


def _train(
    name: str, x: "torch.Tensor", y: "torch.Tensor", num_classes: int
) -> "nn.Module":
    """Train two steps as a student is trained, with an attack of one step."""
    import torch
    from torch.nn import functional as F

    from common.config import AttackConfig, StudentConfig
    from common.models.zoo import build_model
    from common.robustness.attacks import pgd
    from edge.distill.fitting.learner import Learner

    recipe = StudentConfig(
        model=name,
        attack=AttackConfig(steps=1, step_size=_EPS),
        epochs=1,
        ema_decay=0.99,
    )
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            name,
            in_channels=x.shape[1],
            image_size=x.shape[2],
            num_classes=num_classes,
        )
        learner = Learner(model, recipe)
        for _ in range(_STEPS):
            learner.begin_attack()
            x_adv = pgd(
                learner.forward,
                x,
                y,
                eps=_EPS,
                step_size=_EPS,
                steps=1,
                random_start=True,
            )
            learner.end_attack()
            loss = F.cross_entropy(learner.forward(x_adv), y)
            learner.step(loss, 1e-3)
    return model


def _reset_peak() -> float | None:
    """Let the kernel forget this process's peak; MiB now, None where it cannot."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak_mib()


def _peak_mib() -> float:
    """Read this process's peak of resident memory: MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in lines if row.startswith("VmHWM"))


def _grown(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else round(now - before, 1)


def _by_package(found: list[KnownModel]) -> dict[str, list[KnownModel]]:
    groups: dict[str, list[KnownModel]] = {}
    for each in found:
        groups.setdefault(each.package, []).append(each)
    return groups


def _lines(facts: ModelFacts) -> list[str]:
    """Write what there is to say of a model, a line each."""
    size, classes = facts.image_size, facts.num_classes
    memory = "unknown: a process cannot measure its peak here"
    if facts.step_memory_mib is not None:
        memory = (
            f"{facts.step_memory_mib:,.0f} MiB for a batch of {facts.batch_size}, "
            f"{facts.package_memory_mib:,.0f} MiB to import its package (measured; "
            "torch itself is in neither)"
        )
    return [
        f"{facts.name} of {facts.package}, for {facts.in_channels}x{size}x{size} "
        f"images of {classes} classes",
        f"parameters       {facts.num_parameters:,}",
        f"multiply-adds    {facts.num_macs:,} an image",
        f"file             {facts.file_bytes:,} bytes",
        f"starting weights {facts.shipped_bytes:,} bytes in a release",
        f"training step    {memory}",
    ]
