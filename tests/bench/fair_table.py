"""The table of the fair comparison: who wins, by how much, and where nobody does.

Of rows whose recipes were tuned alike (`Row.tuned`). Differences are of the same test
images and seeds; their 95 % intervals are of 2,000 bootstrap samples over both, drawn
with replacement (percentiles). A line is one data set, student, number of training
images and budget. Not here: the rows (takt compare), the tries (tune.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.compare.grid import SHIPPED
from deploy.compare.rows import Row

TEACHERLESS = ("warm_at", "pgd_at", "n_fgsm", "fgsm_pgi")
CONTROLS = ("label_smoothing", "class_means")
SAMPLES = 2000

Held = NDArray[np.bool_]  # (seeds, images)
Place = tuple[str, int, str, str]  # data set, training images, student, budget
NO_ROWS = "There are no rows of it yet."


def markdown(rows: Sequence[Row]) -> str:
    """Write the tuned rows as a Markdown table, and a line that gives it meaning."""
    rows = [row for row in rows if row.tuned]
    places = sorted({_place(row) for row in rows if row.method != SHIPPED})
    if not places:
        return NO_ROWS
    lines = [
        "| data set, student | images | budget | most robust | robust % | over the "
        "next | `takt` over the best without a teacher | `takt` over the better "
        "control | `takt` over `shipped` | seeds |",
        f"| --- | ---: | --- | --- |{' ---: |' * 6}",
        *(_line(rows, place) for place in places),
    ]
    meaning = (
        "Robust under AutoAttack standard, Linf; points of difference with 95 % "
        "intervals (bootstrap over images and seeds). *Nobody*: the interval of the "
        "first over the next holds 0."
    )
    return "\n".join([*lines, "", meaning])


def interval(first: Held, second: Held) -> tuple[float, float, float]:
    """Return a mean paired difference in points, and its 95 % interval.

    Args:
        first: which images of which seed held.
        second: the same images and seeds, of another method.
    """
    difference = 100 * (first.astype(float) - second.astype(float))
    num_seeds, num_images = difference.shape
    random = np.random.default_rng(0)
    # How often a seed, and how often an image, is drawn in each sample.
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), SAMPLES)
    images = random.multinomial(
        num_images, np.full(num_images, 1 / num_images), SAMPLES
    )
    means = ((seeds @ difference) * images).sum(1) / (num_seeds * num_images)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def _place(row: Row) -> Place:
    return row.dataset, row.num_train, row.student, row.budget


def _line(rows: Sequence[Row], place: Place) -> str:
    own = [row for row in rows if _place(row) == place]
    shipped = [
        row for row in rows if row.method == SHIPPED and _place(row)[:3] == place[:3]
    ]
    found, num_seeds = held_by_method([*own, *shipped])
    if not found:
        found, num_seeds = held_by_method(own)
    ranked = sorted(
        (name for name in found if name != SHIPPED),
        key=lambda name: -found[name].mean(),
    )
    first, robust = ranked[0], 100 * found[ranked[0]].mean()
    margin, wins = "-", False
    if len(ranked) > 1:
        values = interval(found[first], found[ranked[1]])
        margin, wins = f"{_points(values)} over `{ranked[1]}`", values[1] > 0
    name = f"`{first}`" if wins or len(ranked) == 1 else f"nobody (`{first}`)"
    dataset, images, student, budget = place
    return (
        f"| {dataset} {student} ({own[0].num_parameters:,}) | {images:,} | {budget} | "
        f"{name} | {robust:.1f} | {margin} | {_over(found, TEACHERLESS)} | "
        f"{_over(found, CONTROLS)} | {_over(found, (SHIPPED,))} | {num_seeds} |"
    )


def held_by_method(rows: Sequence[Row]) -> tuple[dict[str, Held], int]:
    """Say which images held, (seeds, images) by method, of seeds that all have."""
    by_method: dict[str, dict[int, Held]] = {}
    for row in rows:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row.held), np.uint8))
        by_method.setdefault(row.method, {})[row.seed] = bits[: row.num_images] > 0
    common = set.intersection(*(set(seeds) for seeds in by_method.values()))
    if not common:
        return {}, 0
    found = {
        name: np.stack([seeds[seed] for seed in sorted(common)])
        for name, seeds in by_method.items()
    }
    return found, len(common)


def _over(found: dict[str, Held], others: Sequence[str]) -> str:
    there = [name for name in others if name in found]
    if "takt" not in found or not there:
        return "-"
    best = max(there, key=lambda name: found[name].mean())
    text = _points(interval(found["takt"], found[best]))
    return text if len(others) == 1 else f"{text} (`{best}`)"


def _points(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
