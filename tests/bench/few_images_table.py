"""The table of what a teacher adds to few images.

The rows come from few_images.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row
from tables import heads, spread

COLUMNS = {
    "labels": "+ soft labels",
    "deltas": "+ soft labels and deltas",
    "own": "+ those of a teacher of its own images",
}


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
