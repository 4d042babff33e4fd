"""The README's table of the live teacher: what it gives a student, and what it costs.

    .venv/bin/python tests/bench/adaad_table.py     brings README.md up to date

A test compares. The rows are those of `takt compare --grid deploy/grids/live.toml`:
all of one machine, as CPU-seconds of two are not the same.
"""

from collections.abc import Sequence
from pathlib import Path

from deploy.compare.rows import Row, read_rows
from deploy.compare.tables import Group, groups, meaning
from deploy.dev.readme import put, update

ROWS = Path(__file__).parent / "results" / "compare-live.json"


def in_readme(readme: str) -> str:
    """Put the table between the README's marks.

    Raises:
        ValueError: the marks are missing.
    """
    return put(readme, "adaad", markdown(read_rows(ROWS)))


def markdown(rows: Sequence[Row]) -> str:
    """Write the students as a Markdown table, and a line that gives it meaning."""
    heads = "student | method | robust % | node's CPU-s | epochs | teacher's CPU-s"
    lines = [
        f"| {heads} | exchanged | seeds |",
        f"| --- | --- |{' ---: |' * 6}",
        *(_line(group) for group in groups(rows)),
    ]
    return "\n".join([*lines, "", meaning(rows)])


def _line(group: Group) -> str:
    row = group.first
    asked = row.teacher_cpu_s is not None
    teacher = f"{group.mean('teacher_cpu_s'):.1f}" if asked else "-"
    return (
        f"| {row.student} ({row.num_parameters:,}) | `{row.method}` | "
        f"{group.percent('robust_accuracy')} | {group.mean('cpu_s'):.1f} | "
        f"{group.mean('epochs'):.0f} | {teacher} | "
        f"{group.mean('pulled_bytes') / 2**20:.2f} MiB | {len(group.rows)} |"
    )


def main() -> None:
    """Bring README.md up to date."""
    update(in_readme)


if __name__ == "__main__":
    main()
