"""Five ideas for what a student learns from a release, each beside takt as it is.

    .venv/bin/python tests/bench/label_tries.py mnist --seeds 0 1 2 [--data-dir DIR]

    takt        soft labels mixed with the true one, as nodes train
    confident   the teacher's share of that mixture is its probability of the true class
    balanced    a temperature a class, by which the labels of each are as confident
    near        released images drawn the more often, the nearer they are to the node's
                own (by EdgeFD's idea, 2025, of filtering at the client)
    igdm        the student's logits at x + eps s less those at x - eps s are fitted to
                the teacher's, as int8 would ship them, with signs s of a seed for each
                image (the term of Lee et al., ICLR 2025, whose direction is the
                attack's and whose teacher is asked at every step)
    flat        the same with differences of 0 in the place of the teacher's: a penalty
                on the slope, without a teacher

Nodes of own_images.py with 500 own images, and with 200 of three classes; starting
weights, rates and passes as there, without the penalty that recipes have since (the
last idea, edge/distill/methods/jacobian.py). Judged on the cloud's validation images,
by APGD-CE, targeted APGD and Square: these are choices, no results. The rows go to
results/label_tries.json; label_tries_table.py writes the page's table.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from own_images import CLASSES, PASSES, Node, alone, node_of, passes, tuned, with_steps
from own_site import Known, Site, site_parser
from rows import Row, read_rows, write_rows
from torch import Tensor, nn

from common.config import StudentConfig, TuningConfig
from common.models.forward import Model
from common.release import dequantize_rows, quantize_rows
from common.robustness.autoattack import autoattack_each
from edge.distill.batch import Batch, Images, Setting
from edge.distill.fitting.fit import fit_student
from edge.distill.methods import losses

ROWS = Path(__file__).parent / "results" / "label_tries.json"
SCENARIOS = ("few", "classes")
SLOPE_IDEAS = ("igdm", "flat")
SHARE = 0.6  # of the steps, of which each of theirs has five passes for three
_PATTERNS = 4096  # of signs; an image's own is chosen by its pixels

Change = Callable[[Known], Known]  # of what is known of some images


def confident(known: Known) -> Known:
    """Give the teacher's labels the weight of its own probability of the true class."""
    assert known.soft_labels is not None
    hot = _hot(known)
    weight = (known.soft_labels * hot).sum(-1, keepdim=True)
    return replace(known, soft_labels=torch.lerp(hot, known.soft_labels, weight))


def balanced(known: Known) -> Known:
    """Give each class a temperature: its labels' mean confidence is that of all."""
    assert known.soft_labels is not None
    y, soft = known.images.y, known.soft_labels.clone()
    wanted = float(soft.amax(-1).mean())
    for c in range(soft.shape[-1]):
        low, high, logits = 0.1, 10.0, soft[y == c].clamp(min=1e-12).log()
        for _ in range(40):
            middle = (low * high) ** 0.5
            is_sharp = float(F.softmax(logits / middle, -1).amax(-1).mean()) > wanted
            low, high = (middle, high) if is_sharp else (low, middle)
        soft[y == c] = F.softmax(logits / high, -1)
    return replace(known, soft_labels=soft)


def near(model: nn.Module, own: Known) -> Change:
    """Draw released images by nearness to own ones, in a student's logits."""

    def logits(known: Known) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(known.images.x.float().div(255))
        return found

    def change(known: Known) -> Known:
        distance = torch.cdist(logits(known), logits(own)).amin(1)
        weight = torch.exp(-distance / distance.median())
        generator = torch.Generator().manual_seed(0)
        drawn = weight.multinomial(len(weight), replacement=True, generator=generator)
        images = Images(known.images.x[drawn], known.images.y[drawn])
        views = replace(known.views, drawn=known.views.drawn[drawn.numpy()])
        assert known.soft_labels is not None
        return Known(images, views, known.soft_labels[drawn])

    return change


@contextmanager
def slopes(teacher: nn.Module | None) -> Iterator[None]:
    """Add IGDM's term to takt's loss, for the body; without a teacher, slopes of 0."""
    patterns: dict[int, Tensor] = {}
    method = losses.METHODS["takt"]

    def with_term(
        model: Model, batch: Batch, delta: Tensor | None, setting: Setting
    ) -> Tensor:
        x = batch.x
        at = (x.flatten(1).sum(1) * 255).round().long() % _PATTERNS
        shape = x.shape[1:].numel()
        if shape not in patterns:
            generator = torch.Generator().manual_seed(0)
            drawn = torch.rand(_PATTERNS, shape, generator=generator)
            patterns[shape] = drawn.sub_(0.5).sign_()
        step = setting.eps * patterns[shape][at].view_as(x)
        pair = torch.cat([(x + step).clamp(0, 1), (x - step).clamp(0, 1)])
        own, t = model(pair), setting.temperature
        target = torch.full_like(own[: len(x)], 1 / own.shape[1])
        if teacher is not None:
            with torch.no_grad():
                shipped = dequantize_rows(*quantize_rows(teacher(pair).numpy()))
            up, down = torch.from_numpy(shipped).chunk(2)
            target = F.softmax((up - down) / t, 1)
        found = F.cross_entropy((own[: len(x)] - own[len(x) :]) / t, target)
        loss = method.loss(model, batch, delta, setting)
        return loss + t**2 * found

    losses.METHODS["takt"] = method._replace(loss=with_term)
    try:
        yield
    finally:
        losses.METHODS["takt"] = method


def trained(
    site: Site, recipe: StudentConfig, node: Node, scenario: str, idea: str, seed: int
) -> nn.Module:
    """Train a node's student by an idea."""
    place: Row = {
        "scenario": scenario,
        "shift": "none",
        "dataset": site.config.dataset.name,
        "student": recipe.model,
        "jacobian_weight": 0.0,
        "method": "takt",
    }
    choice = tuned(site, recipe, place)
    assert node.own is not None
    released = site.transfer(node.released, node.released_views, seed=seed)
    own = site.taught(node.own, node.num_views, seed=seed, shipped=False)
    start = site.weights(recipe, seed=seed)
    if idea == "near":
        released = near(start, own)(released)
    elif idea in ("confident", "balanced"):
        change = confident if idea == "confident" else balanced
        released, own = change(released), change(own)
    tuning = TuningConfig(learning_rate=choice.rate)
    recipe = recipe.model_copy(update={"tuning": tuning})
    recipe = alone(
        recipe, choice._replace(method="takt", rate=1.0), site.config.threat.eps
    )
    steps = node.steps * PASSES / passes(recipe, choice)
    steps *= SHARE if idea in SLOPE_IDEAS else 1
    recipe = with_steps(recipe, steps, node.released + len(node.own))
    recipe = recipe.model_copy(update={"num_views": node.released_views})
    task = site.task(released, own, seed=seed, start=start)
    teacher = None if idea == "flat" else site.teacher
    with slopes(teacher) if idea in SLOPE_IDEAS else nullcontext():
        return fit_student(recipe, task).model


def judged(site: Site, model: nn.Module) -> Row:
    """Attack a student on the validation images."""
    val = site.data.val
    x, y = val.tensors()
    found = autoattack_each(
        model,
        x,
        y,
        eps=site.config.threat.eps,
        seed=0,
        version="custom",
        attacks=["apgd-ce", "apgd-t", "square"],
    )
    own = torch.isin(y, torch.tensor(CLASSES))
    return {
        "val_robust_accuracy": found.evaluation.accuracy,
        "val_own_class_robust_accuracy": float(found.robust[own].double().mean()),
        "val_images": len(y),
    }


def _hot(known: Known) -> Tensor:
    assert known.soft_labels is not None
    hot = F.one_hot(known.images.y, known.soft_labels.shape[-1])
    return hot[:, None].expand_as(known.soft_labels).to(known.soft_labels.dtype)


IDEAS = ("takt", "confident", "balanced", "near", *SLOPE_IDEAS)


def main() -> None:
    """Make the rows that are missing."""
    parser = site_parser(__doc__)
    parser.add_argument("--student", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=IDEAS)
    options = parser.parse_args()
    site = Site.of_options(options)
    recipe = site.config.students[options.student]
    recipe = recipe.model_copy(update={"jacobian_weight": 0.0})
    for seed, scenario, idea in product(
        options.seeds, options.scenarios, options.ideas
    ):
        row: Row = {
            "dataset": site.config.dataset.name,
            "student": recipe.model,
            "scenario": scenario,
            "idea": idea,
            "seed": seed,
        }
        if any(row.items() <= done.items() for done in read_rows(ROWS)):
            continue
        node = node_of(site, scenario, "none", seed)
        row |= judged(site, trained(site, recipe, node, scenario, idea, seed))
        write_rows(ROWS, [*read_rows(ROWS), row])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
