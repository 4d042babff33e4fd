"""The table of precisions of labels and deltas.

The rows come from precision.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row
from tables import heads, spread


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    columns = heads(rows)
    lines = [
        f"| soft labels | deltas | bytes a sample | {' | '.join(columns.values())} |",
        f"| --- | --- | ---: |{' ---: |' * len(columns)}",
    ]
    for labels, deltas in dict.fromkeys((r["labels"], r["deltas"]) for r in rows):
        same = [r for r in rows if (r["labels"], r["deltas"]) == (labels, deltas)]
        cells = [
            _percent([r for r in same if (r["dataset"], r["student"]) == place])
            for place in columns
        ]
        costs = dict.fromkeys(
            f"{r['label_bytes'] + r['delta_bytes']:.1f}" for r in same
        )
        lines.append(
            f"| {labels} | {deltas} | {', '.join(costs)} | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, "", _meaning(rows)])


def _percent(rows: list[Row]) -> str:
    if not rows:
        return "-"
    return f"{spread([100 * row['robust_accuracy'] for row in rows])} ({len(rows)})"


def _meaning(rows: list[Row]) -> str:
    sets = dict.fromkeys(
        f"{r['dataset']}: {r['norm']}, eps {r['eps']:g}, {r['num_images']} test "
        f"images, {r['epochs']} epochs"
        for r in rows
    )
    return (
        "Robust % under AutoAttack standard; mean +- standard deviation (number of "
        f"seeds). {'; '.join(sets)}."
    )
