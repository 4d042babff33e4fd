"""The table of the live teacher: what it gives a student, and what it costs.

The rows are those of the grid `live` of `takt compare`: all of one machine, as
CPU-seconds of two are not the same. Not here: which file they are in (page_tables.py).
"""

from collections.abc import Sequence

from deploy.compare.rows import Row
from deploy.compare.tables import Group, groups, meaning


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
