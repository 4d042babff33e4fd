"""The README's table of precisions, from the committed rows.

    .venv/bin/python tests/bench/precision_table.py     brings README.md up to date

A test compares. The rows come from tests/bench/precision.py.
"""

from pathlib import Path
from statistics import mean, stdev

from rows import Row, read_rows

from deploy.readme import put

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "tests" / "bench" / "results" / "precision.json"


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    students: dict[tuple[str, str], Row] = {}
    for row in rows:
        students.setdefault((row["dataset"], row["student"]), row)
    heads = [
        f"{dataset} {student} ({row['num_parameters']:,})"
        for (dataset, student), row in students.items()
    ]
    lines = [
        f"| soft labels | deltas | bytes a sample | {' | '.join(heads)} |",
        f"| --- | --- | ---: |{' ---: |' * len(heads)}",
    ]
    for labels, deltas in dict.fromkeys((r["labels"], r["deltas"]) for r in rows):
        same = [r for r in rows if (r["labels"], r["deltas"]) == (labels, deltas)]
        cells = [
            _percent([r for r in same if (r["dataset"], r["student"]) == place])
            for place in students
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
    robust = [100 * row["robust_accuracy"] for row in rows]
    spread = f" +- {stdev(robust):.1f}" if len(robust) > 1 else ""
    return f"{mean(robust):.1f}{spread} ({len(robust)})"


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
    path = ROOT / "README.md"
    text = in_readme(path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
