"""The tables of the fair comparison: who wins, by how much, and where nobody does.

Of rows whose recipes were tuned alike (`Row.tuned`). Differences are of the same test
images and seeds; their 95 % intervals are of 2,000 bootstrap samples over both, drawn
with replacement (percentiles). A line is one data set, student, number of training
images and budget. Not here: the rows (takt compare), the tries (tune.py).
"""

from collections.abc import Sequence
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from deploy.compare.entry import NO_BUDGET, SHIPPED
from deploy.compare.rows import Row

TEACHERLESS = ("warm_at", "pgd_at", "n_fgsm", "fgsm_pgi")
CONTROLS = ("label_smoothing", "class_means")
FROM_SHIPPED = "takt_from_shipped"
BEGUN_CONTROL = "warm_at_from_shipped"  # that, without the teacher's labels
SAMPLES = 2000

Held = NDArray[np.bool_]  # (seeds, images)
Place = tuple[str, int, str, str]  # data set, training images, student, budget
NO_ROWS = "There are no rows of it yet."


def markdown(rows: Sequence[Row]) -> str:
    """Write the tuned rows as a Markdown table, and a line that gives it meaning."""
    rows = [row for row in rows if row.tuned]
    places = _places(rows)
    if not places:
        return NO_ROWS
    lines = [
        "| data set, student | images | budget | most robust | robust % | over the "
        "next | `takt` over the best without a teacher | over the better control | "
        "`takt_from_shipped` over the best without a teacher | over its control | "
        "over `shipped` | seeds |",
        f"| --- | ---: | --- | --- |{' ---: |' * 8}",
        *(_line(rows, place) for place in places),
    ]
    meaning = (
        "Robust under AutoAttack standard, Linf; points of difference with 95 % "
        "intervals (bootstrap over images and seeds). *Nobody*: the interval of the "
        "first over the next holds 0."
    )
    return "\n".join([*lines, "", meaning])


def summary(rows: Sequence[Row]) -> str:
    """Write the rows of whole budgets as a shorter table of accuracies."""
    rows = [row for row in rows if row.tuned]
    places = [place for place in _places(rows) if place[3] == "whole"]
    if not places:
        return NO_ROWS
    lines = [
        "| data set, student | images | `takt` | best without a teacher | best control "
        "| `rslad` | `shipped` | `takt_from_shipped` | `takt` over the best without a "
        "teacher | `takt_from_shipped` over it | seeds |",
        f"| --- |{' ---: |' * 10}",
        *(_summary_line(rows, place) for place in places),
    ]
    meaning = (
        "Robust % under AutoAttack standard, Linf, mean of the seeds; the difference "
        "with its 95 % interval (bootstrap over images and seeds)."
    )
    return "\n".join([*lines, "", meaning])


def by_method(rows: Sequence[Row], dataset: str) -> str:
    """Write each method of a data set's whole budgets, the most robust first."""
    rows = [row for row in rows if row.tuned and row.dataset == dataset]
    places = [place for place in _places(rows) if place[3] == "whole"]
    if not places:
        return NO_ROWS
    lines = [
        "| student | method | robust % | epochs | `takt` over it | "
        "`takt_from_shipped` over it | seeds |",
        f"| --- | --- |{' ---: |' * 5}",
    ]
    for place in places:
        found, seeds, num_parameters = _found(rows, place)
        for name in sorted(found, key=lambda name: -found[name].mean()):
            epochs = [
                row.epochs
                for row in rows
                if row.method == name and row.seed in seeds
                if _place(row) in (place, (*place[:3], NO_BUDGET))
            ]
            lines.append(
                f"| {place[2]} ({num_parameters:,}) | `{name}` | "
                f"{100 * found[name].mean():.1f} | {mean(epochs):.0f} | "
                f"{_over(found, (name,))} | {_over(found, (name,), FROM_SHIPPED)} | "
                f"{len(seeds)} |"
            )
    return "\n".join(lines)


def _summary_line(rows: Sequence[Row], place: Place) -> str:
    found, seeds, num_parameters = _found(rows, place)

    def best(*names: str) -> str:
        there = [name for name in names if name in found]
        if not there:
            return "-"
        first = max(there, key=lambda name: found[name].mean())
        text = f"{100 * found[first].mean():.1f}"
        return text if len(names) == 1 else f"{text} (`{first}`)"

    dataset, images, student, _ = place
    return (
        f"| {dataset} {student} ({num_parameters:,}) | {images:,} | {best('takt')} | "
        f"{best(*TEACHERLESS)} | {best(*CONTROLS)} | {best('rslad')} | "
        f"{best(SHIPPED)} | {best(FROM_SHIPPED)} | {_over(found, TEACHERLESS)} | "
        f"{_over(found, TEACHERLESS, FROM_SHIPPED)} | {len(seeds)} |"
    )


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


def _places(rows: Sequence[Row]) -> list[Place]:
    """List what is compared, small before large and long before short."""
    sizes = {
        _place(row): (row.dataset, row.num_train, row.num_parameters, -row.cpu_budget_s)
        for row in rows
        if row.method != SHIPPED
    }
    return sorted(sizes, key=lambda place: sizes[place])


def _found(rows: Sequence[Row], place: Place) -> tuple[dict[str, Held], list[int], int]:
    """Say which images held, of which seeds, and how large the student is."""
    own = [row for row in rows if _place(row) == place]
    shipped = [
        row for row in rows if row.method == SHIPPED and _place(row)[:3] == place[:3]
    ]
    found, seeds = held_by_method([*own, *shipped])
    if not found:
        found, seeds = held_by_method(own)
    return found, seeds, own[0].num_parameters


def _line(rows: Sequence[Row], place: Place) -> str:
    found, seeds, num_parameters = _found(rows, place)
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
        f"| {dataset} {student} ({num_parameters:,}) | {images:,} | {budget} | "
        f"{name} | {robust:.1f} | {margin} | {_over(found, TEACHERLESS)} | "
        f"{_over(found, CONTROLS)} | {_over(found, TEACHERLESS, FROM_SHIPPED)} | "
        f"{_over(found, (BEGUN_CONTROL,), FROM_SHIPPED)} | "
        f"{_over(found, (SHIPPED,), FROM_SHIPPED)} | {len(seeds)} |"
    )


def held_by_method(rows: Sequence[Row]) -> tuple[dict[str, Held], list[int]]:
    """Say which images held, (seeds, images) by method, of the seeds that all have."""
    by_method: dict[str, dict[int, Held]] = {}
    for row in rows:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row.held), np.uint8))
        by_method.setdefault(row.method, {})[row.seed] = bits[: row.num_images] > 0
    common = sorted(set.intersection(*map(set, by_method.values())))
    if not common:
        return {}, []
    found = {
        name: np.stack([seeds[seed] for seed in common])
        for name, seeds in by_method.items()
    }
    return found, common


def _over(found: dict[str, Held], others: Sequence[str], own: str = "takt") -> str:
    there = [name for name in others if name in found]
    if own not in found or there in ([], [own]):
        return "-"
    best = max(there, key=lambda name: found[name].mean())
    text = _points(interval(found[own], found[best]))
    return text if len(others) == 1 else f"{text} (`{best}`)"


def _points(values: tuple[float, float, float]) -> str:
    middle, low, high = values
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"
