"""The table of what a release brings nodes with images of their own, seed by seed.

Differences between two students of the same seed and test images, in the rows of
own_images.py. Not here: the students themselves (own_images_table.py).
"""

from statistics import mean
from typing import NamedTuple

from own_images_table import Place, place_of, places, shipped_by_seed
from rows import Row

ALL, OWN = "robust_accuracy", "own_class_robust_accuracy"


class Comparison(NamedTuple):
    """takt in a scenario, less another method there or in another scenario."""

    title: str
    scenario: str
    other: str  # a method
    shift: str = "none"
    of: str = ALL  # which accuracy
    other_scenario: str | None = None  # None: the same


COMPARISONS = (
    Comparison(
        "no own images, over the student of 7,200 own images without a teacher",
        "none",
        "own_only",
        other_scenario="full",
    ),
    Comparison("500 own images, over own images alone", "few", "own_only"),
    Comparison("500, over the same without a teacher", "few", "no_teacher"),
    Comparison("500, over the shipped student", "few", "shipped"),
    Comparison(
        "200 of 3 classes, on these: over the shipped student",
        "classes",
        "shipped",
        of=OWN,
    ),
    Comparison("the same, on all classes", "classes", "shipped"),
    Comparison(
        "200 of 3 classes, on these: over the same without a teacher",
        "classes",
        "no_teacher",
        of=OWN,
    ),
    Comparison("the same, on all classes", "classes", "no_teacher"),
    Comparison("200 without labels, over the shipped student", "unlabelled", "shipped"),
    *(
        Comparison(
            f"200, camera: {shift}, over the shipped student",
            "camera",
            "shipped",
            shift,
        )
        for shift in ("brightness", "rotation", "blur")
    ),
    Comparison(
        "a fifth of the steps, over own images alone with all steps",
        "fifth",
        "own_only",
    ),
)


def markdown(rows: list[Row]) -> str:
    """Write the rows' differences as a Markdown table, and a line of meaning."""
    titles = places(rows)
    lines = [
        f"| takt's student, points | {' | '.join(titles.values())} |",
        f"| --- |{' ---: |' * len(titles)}",
    ]
    for comparison in COMPARISONS:
        cells = " | ".join(_cell(rows, place, comparison) for place in titles)
        lines.append(f"| {comparison.title} | {cells} |")
    meaning = (
        "Mean of the seeds' differences [lowest, highest] (number of seeds), by "
        "AutoAttack standard on the same stratified test images."
    )
    return "\n".join([*lines, "", meaning])


def _cell(rows: list[Row], place: Place, comparison: Comparison) -> str:
    """Write the differences of the seeds that have both students."""
    here = [row for row in rows if place_of(row) == place]
    own = _by_seed(here, comparison.scenario, "takt", comparison)
    scenario = comparison.other_scenario or comparison.scenario
    other = _by_seed(here, scenario, comparison.other, comparison)
    if comparison.other == "shipped" and comparison.of == ALL:
        other = shipped_by_seed(here, comparison.shift, comparison.scenario)
    found = [
        100 * (own[seed][comparison.of] - other[seed][comparison.of])
        for seed in sorted(own.keys() & other.keys())
        if _is_pair(own[seed], other[seed])
    ]
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0]:+.1f} (1)"
    low, high = min(found), max(found)
    return f"{mean(found):+.1f} [{low:+.1f}, {high:+.1f}] ({len(found)})"


def _by_seed(
    rows: list[Row], scenario: str, method: str, comparison: Comparison
) -> dict[int, Row]:
    """Find the rows of a method in a scenario."""
    wanted = {"scenario": scenario, "method": method, "shift": comparison.shift}
    return {row["seed"]: row for row in rows if wanted.items() <= row.items()}


def _is_pair(own: Row, other: Row) -> bool:
    """Refuse rows of other starting weights; older rows do not name theirs."""
    names = {row["weights"] for row in (own, other) if "weights" in row}
    return len(names) < 2
