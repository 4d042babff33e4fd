"""What a teacher adds, against the robust gap between training and test images.

    .venv/bin/python tests/bench/gap.py mnist --seeds 0 1 2 [--data-dir DIR]
    .venv/bin/python tests/bench/gap.py tests/bench/cifar10-cpu.toml --student medium \
        --teacher tests/bench/results/cifar10-teacher --seeds 0 [--data-dir DIR]

A node trains on images of its own alone, more of them from row to row, as they are and
in shifted views, without a teacher (`warm_at`) and with its labels of the same views
(`takt`): the same images, views, attack, rate and steps. A student is measured by
PGD-20 on the images that it was trained on, as they are, and on test images. The gap
is the difference of the two without a teacher; what the teacher adds is the difference
of the two students on test images. Labels lower the variance of the estimate, so where
there is no gap there is nothing to add: this is what the rows show or do not show.

The rows go to results/gap.json as they come, the plot of all of them to gap.svg.
"""

import json
from itertools import product
from pathlib import Path

import torch
from own_images import Choice, alone, with_steps
from own_site import Site, site_parser
from rows import Row, read_rows, write_rows

from common.config import AttackConfig, StudentConfig
from common.data.datasets import Split
from common.durable import write_atomic
from common.models.zoo import num_parameters
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from deploy.evaluation.images import stratified_positions
from edge.distill.fitting.fit import fit_student

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "gap.json"
# Of what the teacher did not learn from.
SIZES = {"digits": (100, 250, 600), "cifar10": (500, 1500, 5000)}
MORE_SIZES = (100, 300, 1000, 3000, 7200)
# An image of 8 x 8, shifted by one pixel, has no more than nine.
VIEWS = {"digits": (1, 9), "cifar10": (1, 8)}
MORE_VIEWS = (1, 10)
METHODS = ("warm_at", "takt")
STEPS = 1000  # of 128 images
TRAIN_IMAGES, TEST_IMAGES = 1000, 2000  # measured, at most


def measured(site: Site, model: torch.nn.Module, split: Split) -> float:
    """Measure robust accuracy by PGD-20."""
    eps = site.config.threat.eps
    attack = AttackConfig(steps=20, step_size=eps / 8)
    return robust_accuracy_pgd(
        model, *split.tensors(), attack=attack, eps=eps, seed=0
    ).accuracy


def some(split: Split, most: int) -> Split:
    """Take so many images at most, stratified."""
    at = stratified_positions(split.labels, most)
    return Split(split.images[at], split.labels[at])


def make_row(
    site: Site, recipe: StudentConfig, place: Row, own: Split, test: Split
) -> Row:
    """Train and measure one student."""
    num_views, seed, method = place["num_views"], place["seed"], place["method"]
    if method == "takt":
        known = site.taught(own, num_views, seed=seed, shipped=False)
    else:
        known = site.plain(own, num_views, seed=seed)
    recipe = alone(recipe, Choice(method, 2, 1.0), site.config.threat.eps)
    recipe = with_steps(recipe, STEPS, len(own))
    recipe = recipe.model_copy(update={"num_views": num_views})
    fitted = fit_student(recipe, site.task(None, known, seed=seed))
    seen = some(own, TRAIN_IMAGES)
    return place | {
        "num_parameters": num_parameters(fitted.model),
        "cpu_s": round(fitted.cpu_s.distil, 2),
        "clean_accuracy": clean_accuracy(fitted.model, *test.tensors()),
        "train_robust_accuracy": measured(site, fitted.model, seen),
        "test_robust_accuracy": measured(site, fitted.model, test),
        "attack": "pgd-20",
        "num_images": len(test),
        "eps": site.config.threat.eps,
        "norm": "Linf",
        "flags": [*fitted.flags],
    }


def main() -> None:
    """Make the rows that are missing, then the plot."""
    parser = site_parser(__doc__)
    parser.add_argument("--student", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    site = Site.of_options(options)
    recipe = site.config.students[options.student]
    name = site.config.dataset.name
    test = some(site.data.test, TEST_IMAGES)
    sizes = SIZES.get(name, MORE_SIZES)
    all_views = VIEWS.get(name, MORE_VIEWS)
    for seed, size, views in product(options.seeds, sizes, all_views):
        own = site.own_images(size, seed=seed)
        for method in METHODS:
            place: Row = {
                "dataset": name,
                "student": recipe.model,
                "method": method,
                "seed": seed,
                "own_images": size,
                "num_views": views,
            }
            if any(place.items() <= row.items() for row in read_rows(ROWS)):
                continue
            row = make_row(site, recipe, place, own, test)
            write_rows(ROWS, [*read_rows(ROWS), row])
            print(json.dumps(row), flush=True)
    from gap_plot import plot

    write_atomic(ROWS.with_suffix(".svg"), plot(read_rows(ROWS)).encode())


if __name__ == "__main__":
    main()
