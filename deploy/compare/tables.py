"""The rows of `takt compare` as tables: mean and spread over seeds.

One group a data set, student, method and CPU budget. For the terminal, and as
Markdown for a page (tests/bench/page_tables.py). Not here: the rows themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from deploy.compare.rows import Row
from deploy.runtime.terminal import plain

ORDER = (
    *("natural", "kd", "bss", "pgd_at", "trades", "ard", "rslad", "absld", "adaad"),
    *("n_fgsm", "fgsm_pgi"),
)
LAST = ("warm_at", "label_smoothing", "class_means", "takt", "shipped")
MISSING = "-"

_Place = tuple[str, int, int, float, int, str]


@dataclass(frozen=True)
class Group:
    """Rows that differ in their seed only."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """Return one row, for the fields that all share."""
        return self.rows[0]

    def mean(self, field: str) -> float:
        """Average a numeric field."""
        return mean(self._values(field))

    def spread(self, field: str) -> float | None:
        """Return the standard deviation over seeds; None for a single seed."""
        if len(self.rows) < 2:
            return None
        return stdev(self._values(field))

    def percent(self, field: str) -> str:
        """Format a fraction's mean and spread in percent."""
        spread = self.spread(field)
        text = f"{100 * self.mean(field):.1f}"
        return text if spread is None else f"{text} +- {100 * spread:.1f}"

    def _values(self, field: str) -> list[float]:
        return [float(getattr(row, field)) for row in self.rows]


def groups(rows: Iterable[Row]) -> list[Group]:
    """Group rows: by data set and size, then student, smallest first, then budget."""
    found: dict[tuple[_Place, int, bool], list[Row]] = {}
    for row in rows:
        place = (_place(row), row.num_images, row.tuned)
        found.setdefault(place, []).append(row)
    return [Group(tuple(found[place])) for place in sorted(found)]


def data_set_names(rows: Iterable[Row]) -> dict[tuple[str, int], str]:
    """Name data sets by (name, training images), with the latter where they differ."""
    found = sorted({(row.dataset, row.num_train) for row in rows})
    names = [name for name, _ in found]
    return {
        (name, num_train): name
        if names.count(name) == 1
        else f"{name}, {num_train:,} images"
        for name, num_train in found
    }


def _place(row: Row) -> _Place:
    known = (*ORDER, *LAST)
    rank = known.index(row.method) if row.method in known else len(known)
    student = (row.dataset, row.num_train, row.num_parameters)
    return (*student, row.cpu_budget_s, rank, row.method)


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table and a line on what the figures are of."""
    lines = [
        "| data set | student | method | robust % | clean % | CPU-s | epochs | "
        "knowledge | seeds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    names = data_set_names(rows)
    for group in groups(rows):
        row = group.first
        lines.append(
            f"| {names[row.dataset, row.num_train]} | "
            f"{row.student} ({row.num_parameters:,}) | `{row.method}` | "
            f"{group.percent('robust_accuracy')} | "
            f"{group.percent('clean_accuracy')} | {group.mean('cpu_s'):.1f} | "
            f"{group.mean('epochs'):.0f} | {_kib(row)} | {len(group.rows)} |"
        )
    return "\n".join([*lines, "", meaning(rows)])


def meaning(rows: Sequence[Row]) -> str:
    """Describe what the robust accuracies are of, by data set."""
    described = dict.fromkeys(
        f"{row.dataset}: {row.num_train:,} training images, {row.norm}, eps "
        f"{row.eps:.4g}, {row.num_images} test images"
        for row in sorted(rows, key=lambda row: row.key)
    )
    versions = ", ".join(sorted({f"{row.version}" for row in rows}))
    return (
        f"Robust: AutoAttack {versions}; mean +- standard deviation over seeds. "
        f"{'; '.join(described)}."
    )


def print_summary(rows: Sequence[Row], console: Console) -> None:
    """Print the groups of some rows, one line each."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("data set", "student", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("robust %", "clean %", "CPU-s", "epochs", "knowledge", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    names = data_set_names(rows)
    for group in groups(rows):
        row = group.first
        table.add_row(
            plain(names[row.dataset, row.num_train]),
            plain(f"{row.student} ({row.num_parameters:,})"),
            plain(row.method),
            group.percent("robust_accuracy"),
            group.percent("clean_accuracy"),
            f"{group.mean('cpu_s'):.1f}",
            f"{group.mean('epochs'):.0f}",
            _kib(row),
            str(len(group.rows)),
        )
    console.print()
    console.print(table)
    console.print(meaning(rows), style="dim", highlight=False)


def _kib(row: Row) -> str:
    return f"{row.pulled_bytes / 1024:.1f} KiB" if row.pulled_bytes else MISSING
