"""The short table of results: students of four methods at their whole CPU budget.

The rows are those of the grids `full` and `few` of `takt compare`. A line stands for
one data set, number of training images and student, of which three methods or more
were trained; its figures are of the seeds that these have in common. Not here: every
method and budget (deploy/compare/tables.py).
"""

from collections.abc import Sequence

from tables import spread

from deploy.compare.rows import Row

TITLES = {
    "takt": "`takt`",
    "warm_at": "no teacher (`warm_at`)",
    "rslad": "`rslad`, 10 steps",
    "pgd_at": "`pgd_at`, 10 steps",
}
AT_LEAST = 3  # methods

Place = tuple[str, int, int]  # data set, training images, parameters


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    places = sorted({_place(row) for row in rows}, key=lambda p: (p[0], -p[1], p[2]))
    lines = [
        "| data set | images on the node | eps | student's parameters | CPU-s | "
        f"{' | '.join(TITLES.values())} | seeds |",
        f"| --- |{' ---: |' * (len(TITLES) + 5)}",
        *(line for place in places if (line := _line(rows, place))),
    ]
    versions = ", ".join(sorted({row.version for row in rows}))
    norms = ", ".join(sorted({row.norm for row in rows}))
    counts = sorted({row.num_images for row in rows})
    meaning = (
        f"Robust accuracy in percent under AutoAttack {versions}, {norms}, on "
        f"{counts[0]} (digits) or {counts[-1]} test images; mean +- standard deviation."
    )
    return "\n".join([*lines, "", meaning])


def _place(row: Row) -> Place:
    return row.dataset, row.num_train, row.num_parameters


def _line(rows: Sequence[Row], place: Place) -> str | None:
    own = [row for row in rows if _place(row) == place]
    budget = max(row.cpu_budget_s for row in own)
    found = {
        method: {
            row.seed: 100 * row.robust_accuracy
            for row in own
            if (row.method, row.cpu_budget_s) == (method, budget)
        }
        for method in TITLES
    }
    trained = [values for values in found.values() if values]
    if len(trained) < AT_LEAST:
        return None
    seeds = sorted(set.intersection(*(set(values) for values in trained)))
    cells = [
        spread([values[seed] for seed in seeds]) if values else "-"
        for values in found.values()
    ]
    name, images, parameters = place
    return (
        f"| {name} | {images:,} | {own[0].eps:.4g} | {parameters:,} | {budget:g} | "
        f"{' | '.join(cells)} | {len(seeds)} |"
    )
