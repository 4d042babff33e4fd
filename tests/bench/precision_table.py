"""The README's table of precisions, from the committed rows.

    .venv/bin/python tests/bench/precision_table.py     brings README.md up to date

A test compares. The rows come from tests/bench/precision.py.
"""

from pathlib import Path

from rows import Row, read_rows
from tables import heads, spread

from deploy.dev.readme import put, update

ROWS = Path(__file__).parent / "results" / "precision.json"


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


def in_readme(readme: str) -> str:
    """Put the table between the README's marks.

    Raises:
        ValueError: the marks are missing.
    """
    return put(readme, "precision", markdown(read_rows(ROWS)))


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


def main() -> None:
    """Bring README.md up to date."""
    update(in_readme)


if __name__ == "__main__":
    main()
