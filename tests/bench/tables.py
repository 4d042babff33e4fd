"""What the tables of a bench's rows have in common."""

from collections.abc import Sequence
from statistics import mean, stdev

from rows import Row

Place = tuple[str, str]  # data set and student


def spread(values: Sequence[float], sign: str = "") -> str:
    """Write a mean and, of more than one value, the standard deviation."""
    text = f"{mean(values):{sign}.1f}"
    return f"{text} +- {stdev(values):.1f}" if len(values) > 1 else text


def heads(rows: Sequence[Row]) -> dict[Place, str]:
    """Name the columns, one a data set and student, in the rows' order."""
    return {
        (row["dataset"], row["student"]): (
            f"{row['dataset']} {row['student']} ({row['num_parameters']:,})"
        )
        for row in rows
    }
