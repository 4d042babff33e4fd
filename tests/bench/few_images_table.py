"""The README's table of what a teacher adds to few images, from the committed rows.

    .venv/bin/python tests/bench/few_images_table.py     brings README.md up to date

A test compares. The rows come from tests/bench/few_images.py.
"""

from pathlib import Path

from rows import Row, read_rows
from tables import heads, spread

from deploy.dev.readme import put, update

ROWS = Path(__file__).parent / "results" / "few-images.json"
COLUMNS = {
    "labels": "+ soft labels",
    "deltas": "+ soft labels and deltas",
    "own": "+ those of a teacher of its own images",
}


def in_readme(readme: str) -> str:
    """Put the table between the README's marks.

    Raises:
        ValueError: the marks are missing.
    """
    return put(readme, "few-images", markdown(read_rows(ROWS)))


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    columns = {
        knowledge: title
        for knowledge, title in COLUMNS.items()
        if any(row["knowledge"] == knowledge for row in rows)
    }
    lines = [
        f"| data set, student | images | without | {' | '.join(columns.values())} |",
        f"| --- |{' ---: |' * (len(columns) + 2)}",
    ]
    for (dataset, student), title in sorted(heads(rows).items()):
        own = [r for r in rows if (r["dataset"], r["student"]) == (dataset, student)]
        for limit in sorted({row["limit"] for row in own}):
            here = {
                name: {
                    row["seed"]: 100 * row["robust_accuracy"]
                    for row in own
                    if (row["limit"], row["knowledge"]) == (limit, name)
                }
                for name in ("none", *columns)
            }
            cells = [_whole(here["none"]), *(_gain(here, name) for name in columns)]
            lines.append(f"| {title} | {limit:,} | {' | '.join(cells)} |")
    first, count = rows[0], rows[0]["num_images"]
    meaning = (
        "Robust % under AutoAttack standard without a teacher, and the points that a "
        "student of the same seed gains by one; mean +- standard deviation (number of "
        f"seeds). The first {count} test images, {first['norm']}; a tenth "
        "of a node's images is its validation split."
    )
    return "\n".join([*lines, "", meaning])


def _whole(values: dict[int, float]) -> str:
    return f"{spread([*values.values()])} ({len(values)})" if values else "-"


def _gain(here: dict[str, dict[int, float]], name: str) -> str:
    own, without = here[name], here["none"]
    found = [own[seed] - without[seed] for seed in own if seed in without]
    return f"{spread(found, sign='+')} ({len(found)})" if found else "-"


def main() -> None:
    """Bring README.md up to date."""
    update(in_readme)


if __name__ == "__main__":
    main()
