"""The tables of margins: how far takt is above the other methods.

The rows are those of the grids `full` and `few` of `takt compare`. Not here: which file
they are in (page_tables.py).
"""

from collections.abc import Sequence

from tables import spread

from deploy.compare.rows import Row

OTHERS = ("rslad", "pgd_at", "warm_at")

Place = tuple[str, int, str]


def markdown(rows: Sequence[Row]) -> str:
    """Write takt's margins as a Markdown table, and a line that gives it meaning."""
    heads = ["data set", "student", "CPU-s", *(f"over `{name}`" for name in OTHERS)]
    several = len({(row.student, row.cpu_budget_s) for row in rows}) > len(
        {row.student for row in rows}
    )
    heads += [*(["over all of `rslad`"] if several else []), "seeds"]
    lines = [
        f"| {' | '.join(heads)} |",
        f"| --- | --- |{' ---: |' * (len(heads) - 2)}",
    ]
    places = sorted({(row.dataset, row.num_parameters, row.student) for row in rows})
    for place in places:
        dataset, num_parameters, student = place
        own = [r for r in rows if (r.dataset, r.num_parameters, r.student) == place]
        budgets = sorted({row.cpu_budget_s for row in own}, reverse=True)
        for budget in budgets:
            takt = _by_seed(own, "takt", budget)
            cells = [_margin(takt, _by_seed(own, name, budget)) for name in OTHERS]
            if several:
                cells.append(_margin(takt, _by_seed(own, "rslad", budgets[0])))
            lines.append(
                f"| {dataset} | {student} ({num_parameters:,}) | {budget:g} | "
                f"{' | '.join(cells)} | {len(takt)} |"
            )
    meaning = (
        "Points of AutoAttack accuracy that `takt` is above another method at equal "
        "CPU-seconds, the same seed each"
        f"{', and last above `rslad` at its whole budget' if several else ''}; "
        "mean +- standard deviation."
    )
    return "\n".join([*lines, "", meaning])


def _by_seed(rows: Sequence[Row], method: str, budget_s: float) -> dict[int, float]:
    return {
        row.seed: 100 * row.robust_accuracy
        for row in rows
        if (row.method, row.cpu_budget_s) == (method, budget_s)
    }


def _margin(own: dict[int, float], other: dict[int, float]) -> str:
    found = [own[seed] - other[seed] for seed in own if seed in other]
    if not found:
        return "-"
    return spread(found, sign="+")
