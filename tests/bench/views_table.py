"""The table of `views.py`: how robust students are that train on so many views.

Not here: the trainings (views.py).
"""

from collections.abc import Sequence

from rows import Row
from tables import spread

STUDENTS = ("cnn_tiny", "cnn_small")


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table: means and deviations over seeds."""
    found: dict[tuple[str, int, str, int], dict[str, list[float]]] = {}
    for row in rows:
        place = (row["dataset"], row["num_train"], row["method"], row["num_views"])
        robust = found.setdefault(place, {}).setdefault(row["student"], [])
        robust.append(100 * row["val_pgd20_accuracy"])
    lines = [
        f"| data set | images | method | views | {' | '.join(STUDENTS)} |",
        f"| --- | ---: | --- | ---: |{' ---: |' * len(STUDENTS)}",
    ]
    for (dataset, images, method, views), by_student in sorted(found.items()):
        cells = [_cell(by_student.get(student, [])) for student in STUDENTS]
        lines.append(
            f"| {dataset} | {images:,} | `{method}` | {views} | {' | '.join(cells)} |"
        )
    meaning = (
        "Robust % under PGD-20 on validation images; mean +- standard deviation "
        "(number of seeds)."
    )
    return "\n".join([*lines, "", meaning])


def _cell(robust: list[float]) -> str:
    return f"{spread(robust)} ({len(robust)})" if robust else "-"
