"""The table of five ideas for what a student learns from a release.

The rows come from label_tries.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row
from tables import spread

IDEAS = {
    "takt": "takt",
    "confident": "labels by confidence",
    "balanced": "temperatures by class",
    "near": "near images more often",
    "igdm": "IGDM's term",
    "flat": "slopes of 0",
}
NODES = {"few": "500 images", "classes": "200 of 3 classes"}


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    lines = [
        f"| data set, student | node | {' | '.join(IDEAS.values())} |",
        f"| --- | --- |{' ---: |' * len(IDEAS)}",
    ]
    for dataset, student in sorted({(r["dataset"], r["student"]) for r in rows}):
        for scenario, node in NODES.items():
            here = [
                row
                for row in rows
                if (row["dataset"], row["student"], row["scenario"])
                == (dataset, student, scenario)
            ]
            if here:
                cells = " | ".join(_cell(here, idea) for idea in IDEAS)
                lines.append(f"| {dataset} {student} | {node} | {cells} |")
    meaning = (
        "Robust % under APGD-CE, targeted APGD and Square on all / the three classes "
        f"of {rows[0]['val_images']} validation images; mean +- standard deviation "
        "(number of seeds)."
    )
    return "\n".join([*lines, "", meaning])


def _cell(rows: list[Row], idea: str) -> str:
    found = [row for row in rows if row["idea"] == idea]
    if not found:
        return "-"
    every = spread([100 * row["val_robust_accuracy"] for row in found])
    own = spread([100 * row["val_own_class_robust_accuracy"] for row in found])
    return f"{every} / {own} ({len(found)})"
