"""What the README's tables of a bench's rows have in common."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from rows import Row

from deploy.compare.rows import Row as CompareRow
from deploy.compare.rows import read_rows
from deploy.dev.readme import put

RESULTS = Path(__file__).parent / "results"

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


def put_compared(
    readme: str,
    files: Mapping[str, str],
    markdown: Callable[[Sequence[CompareRow]], str],
) -> str:
    """Put a table of each file of `takt compare` between its marks; files by mark.

    Raises:
        ValueError: the marks are missing.
    """
    for mark, file in files.items():
        readme = put(readme, mark, markdown(read_rows(RESULTS / file)))
    return readme
