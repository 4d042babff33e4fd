"""The table of the takt recipe without one of its ingredients, or with one more.

The rows come from ablation.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row
from tables import Place, heads, spread

WHOLE = "takt"


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    columns = heads(rows)
    lines = [
        f"| variant | {' | '.join(columns.values())} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [_cell(rows, place, variant) for place in columns]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _meaning(rows)])


def _cell(rows: list[Row], place: Place, variant: str) -> str:
    """Write the whole recipe's accuracy, or a variant's differences from it."""
    own, whole = (
        {
            row["seed"]: 100 * row["robust_accuracy"]
            for row in rows
            if (row["dataset"], row["student"], row["variant"]) == (*place, name)
        }
        for name in (variant, WHOLE)
    )
    if not own:
        return "-"
    if variant == WHOLE:
        return f"{spread([*own.values()])} ({len(own)})"
    found = spread([own[seed] - whole[seed] for seed in own], sign="+")
    names = (*place, variant)
    failed = sum(
        "collapsed" in row["flags"]
        for row in rows
        if (row["dataset"], row["student"], row["variant"]) == names
    )
    return f"{found} ({len(own)})" + (f", {failed} collapsed" if failed else "")


def _meaning(rows: list[Row]) -> str:
    sets = dict.fromkeys(
        f"{row['dataset']}: {row['norm']}, eps {row['eps']:g}, {row['num_images']} "
        "test images"
        for row in rows
    )
    return (
        "Robust % under AutoAttack standard of the whole recipe; below, the points "
        "that a variant of the same seed is above or below it; mean +- standard "
        f"deviation (number of seeds). {'; '.join(sets)}."
    )
