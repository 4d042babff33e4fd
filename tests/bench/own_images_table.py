"""The table of nodes with images of their own: each method, by scenario.

The rows come from own_images.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row
from tables import spread

Place = tuple[str, str, float]  # data set, student, weight of the penalty on its slope

METHODS = {
    "takt": "takt",
    "shipped": "shipped as it is",
    "no_teacher": "the same without a teacher",
    "own_only": "own images alone",
}
SCENARIOS = {
    "none": "no images of its own",
    "full": "7,200 images",
    "few": "500 images",
    "classes": "200 of 3 classes",
    "unlabelled": "200 without labels",
    "camera": "200, camera: ",
    "fifth": "7,200, a fifth of the steps",
}


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    lines = [
        f"| data set, student | node | {' | '.join(METHODS.values())} |",
        f"| --- | --- |{' ---: |' * len(METHODS)}",
    ]
    for place, title in places(rows).items():
        here = [row for row in rows if place_of(row) == place]
        for scenario, name in SCENARIOS.items():
            of_one = [row for row in here if row["scenario"] == scenario]
            for shift in sorted({row["shift"] for row in of_one}):
                found = [row for row in of_one if row["shift"] == shift]
                found += _shipped(here, found, shift)
                cells = " | ".join(_cell(found, method) for method in METHODS)
                what = name if shift == "none" else f"{name}{shift}"
                lines.append(f"| {title} | {what} | {cells} |")
    first = rows[0]
    meaning = (
        "Robust % under AutoAttack standard, on all classes; where a node has some "
        "classes only, also on these: all / own. Mean +- standard deviation (number of "
        f"seeds); {first['num_images']} stratified test images, {first['norm']}; a "
        "shifted camera is tested on test images shifted like its own."
    )
    return "\n".join([*lines, "", meaning])


def places(rows: list[Row]) -> dict[Place, str]:
    """Name what the rows are of, in order."""
    found = {place_of(row): row["num_parameters"] for row in rows}
    return {
        place: f"{place[0]} {place[1]} ({found[place]:,})"
        + (", slope penalised" if place[2] else "")
        for place in sorted(found)
    }


def place_of(row: Row) -> Place:
    """Say what a row is of."""
    return row["dataset"], row["student"], row["jacobian_weight"]


def shipped_by_seed(here: list[Row], shift: str, scenario: str) -> dict[int, Row]:
    """Find the shipped students on a camera's images, those of the scenario first.

    What a node holds does not change them, nor does a scenario its test images; but
    trained on two machines they differ in the last bit, and so by a few images.
    """
    rows = [row for row in here if row["method"] == "shipped" and row["shift"] == shift]
    rows.sort(key=lambda row: row["scenario"] != scenario)
    found: dict[int, Row] = {}
    for row in rows:
        found.setdefault(row["seed"], row)
    return found


def _shipped(here: list[Row], found: list[Row], shift: str) -> list[Row]:
    """Find the shipped students of these seeds elsewhere, unless they are here."""
    if any(row["method"] == "shipped" for row in found):
        return []
    seeds = {row["seed"] for row in found}
    rows = shipped_by_seed(here, shift, found[0]["scenario"])
    return [{**row, "own_classes": []} for seed, row in rows.items() if seed in seeds]


def _cell(rows: list[Row], method: str) -> str:
    """Write what a method's students withstand, all seeds together."""
    found = [row for row in rows if row["method"] == method]
    if not found:
        return "-"
    text = spread([100 * row["robust_accuracy"] for row in found])
    if found[0]["own_classes"]:
        own = spread([100 * row["own_class_robust_accuracy"] for row in found])
        text += f" / {own}"
    return f"{text} ({len(found)})"
