"""The README's tables of every method, student and budget, from the committed rows.

    .venv/bin/python tests/bench/compare_table.py     brings README.md up to date

A test compares. The rows are of the grids `full`, `few` and `plain` of `takt compare`.
"""

from tables import put_compared

from deploy.compare.tables import markdown
from deploy.dev.readme import update

FILES = {  # by mark
    "compare": "compare.json",
    "few": "compare-few.json",
    "plain": "compare-plain.json",
}


def in_readme(readme: str) -> str:
    """Put the tables between the README's marks.

    Raises:
        ValueError: the marks are missing.
    """
    return put_compared(readme, FILES, markdown)


def main() -> None:
    """Bring README.md up to date."""
    update(in_readme)


if __name__ == "__main__":
    main()
