"""The README's tables of every method, student and budget, from the committed rows.

    .venv/bin/python tests/bench/compare_table.py     brings README.md up to date

A test compares. The rows are those of the grids `full` and `few` of `takt compare`.
"""

from pathlib import Path

from deploy.compare_rows import read_rows
from deploy.compare_table import markdown
from deploy.readme import put, update

RESULTS = Path(__file__).parent / "results"
FILES = {"compare": "compare.json", "few": "compare-few.json"}  # by mark


def in_readme(readme: str) -> str:
    """Put the tables between the README's marks.

    Raises:
        ValueError: the marks are missing.
    """
    for mark, file in FILES.items():
        readme = put(readme, mark, markdown(read_rows(RESULTS / file)))
    return readme


def main() -> None:
    """Bring README.md up to date."""
    update(in_readme)


if __name__ == "__main__":
    main()
