"""A student class by class: accuracies, the worst class, what it is taken for.

Of many classes the worst ones are shown. Not here: images (deploy/report/pictured.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.bars import Bar, BarRow, wilson
from deploy.report.details import ClassDetail, Details
from deploy.report.wording import percent

MOST_CLASSES = 12  # shown one by one
MOST_MISTAKES = 10  # of more classes than that, listed


@dataclass(frozen=True)
class Matrix:
    """Counts of attacked images: of a class (rows), taken for a class (columns)."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]  # of the rows


def class_rows(details: Details, style: str) -> list[BarRow]:
    """Show robust and clean accuracy of each class; of many, of the worst ones.

    Args:
        details: of a model.
        style: CSS class of its colour.
    """
    classes = _attacked(details)
    if len(details.classes) > MOST_CLASSES:
        classes = classes[:MOST_CLASSES]
    else:
        classes = sorted(classes, key=details.classes.index)
    rows = []
    for each in classes:
        robust = each.robust_accuracy
        if robust is None:
            continue
        span = wilson(robust, each.attacked)
        bar = Bar(robust, style, tick=each.clean_accuracy, span=span)
        clean = "not tested"
        if each.clean_accuracy is not None:
            clean = f"{percent(each.clean_accuracy)} % clean"
        rows.append(BarRow(each.name, "", (bar,), f"{percent(robust)} %", (clean,)))
    return rows


def _attacked(details: Details) -> list[ClassDetail]:
    """List the classes that were attacked, the least robust first."""
    found = [each for each in details.classes if each.attacked]
    return sorted(found, key=lambda each: each.robust / each.attacked)


def worst_class(details: Details) -> str:
    """Name in a sentence the class that withstands least, and the worst clean one."""
    found = _attacked(details)
    if not found:
        return "No class was attacked."
    worst = found[0]
    low, high = wilson(worst.robust / worst.attacked, worst.attacked)
    same = [each.name for each in found if _as_bad(each, worst)]
    text = (
        f"Worst under attack: {_listed(same)}, {worst.robust} of {worst.attacked} "
        f"images withstand (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    tested = [each for each in details.classes if each.clean_accuracy is not None]
    if tested:
        least = min(each.right / each.tested for each in tested)
        names = [each.name for each in tested if each.right / each.tested == least]
        text += f"; clean: {_listed(names)}, {percent(least)} %"
    absent = [each.name for each in details.classes if not each.attacked]
    if absent:
        text += f"; not attacked: {_listed(absent)}"
    return f"{text}."


def _as_bad(one: ClassDetail, worst: ClassDetail) -> bool:
    return one.robust * worst.attacked == worst.robust * one.attacked


def _listed(names: Sequence[str], most: int = 3) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def matrix(details: Details) -> Matrix | None:
    """Count which class attacked images were taken for; None: too many classes."""
    size = len(details.classes)
    if size > MOST_CLASSES:
        return None
    counts = [[0] * size for _ in range(size)]
    for k, each in enumerate(details.classes):
        counts[k][k] = each.robust
    for mistake in details.mistakes:
        if mistake.answer >= 0:
            counts[mistake.label][mistake.answer] += mistake.count
    return Matrix(
        names=tuple(each.name for each in details.classes),
        counts=tuple(tuple(row) for row in counts),
        totals=tuple(each.attacked for each in details.classes),
    )


def worst_mistakes(details: Details, most: int = MOST_MISTAKES) -> list[str]:
    """Name the most frequent mistakes, each in a phrase."""
    found = sorted(details.mistakes, key=lambda each: -each.count)[:most]
    return [
        f"{details.classes[each.label].name} taken for "
        f"{details.classes[each.answer].name if each.answer >= 0 else 'nothing'}, "
        f"{each.count} of {details.classes[each.label].attacked}"
        for each in found
    ]
