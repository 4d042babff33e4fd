"""The table of exported students: float, ONNX and int8 side by side.

The rows come from export_bench.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row

from common.errors import StudentError
from common.export.gate import GateFigures, require_as_good

_FIGURES = tuple(GateFigures.__dataclass_fields__)


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    lines = [
        "| data set | student | seed | file | bytes | ms, 1 image | ms, 64 images "
        "| clean % | robust % | gate |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        clean, robust, gate = _measured(row, rows)
        lines.append(
            f"| {row['dataset']} | {row['student']} ({row['num_parameters']:,}) "
            f"| {row['seed']} | {row['format']} | {row['bytes']:,} | {row['ms_1']:.3f} "
            f"| {row['ms_64']:.2f} | {clean:.1f} | {robust:.1f} | {gate} |"
        )
    return "\n".join([*lines, "", _meaning(rows)])


def _measured(row: Row, rows: list[Row]) -> tuple[float, float, str]:
    """Return clean and robust accuracy in percent, and what the gate says."""
    if row["format"] == "float":  # measured beside each of its files
        beside = next(r for r in rows if _place(r) == _place(row) and r is not row)
        return 100 * beside["clean_before"], 100 * beside["robust_before"], "-"
    figures = GateFigures(**{name: row[name] for name in _FIGURES})
    try:
        require_as_good(figures, row["format"])
        gate = "passes"
    except StudentError:
        gate = "refuses"
    return 100 * figures.clean_after, 100 * figures.robust_after, gate


def _place(row: Row) -> tuple[str, str, int]:
    return row["dataset"], row["student"], row["seed"]


def _meaning(rows: list[Row]) -> str:
    sets = dict.fromkeys(
        f"{r['dataset']}: eps {r['eps']:g}, {r['num_images']} test images, "
        f"{r['num_attacked']} of them attacked"
        + (f" ({r['note']})" if r["note"] else "")
        for r in rows
        if r["format"] != "float"
    )
    return (
        "Robust: norm Linf, AutoAttack standard on the float student; of a file, what "
        "holds against those images and against Square on the file. "
        f"{'; '.join(sets)}."
    )
