"""The README's comparison table, from the committed rows.

    .venv/bin/python tests/bench/table.py     brings README.md up to date

A test compares. The rows come from `takt compare --full`, see deploy/compare.py.
"""

from functools import partial
from pathlib import Path

from deploy.compare_rows import read_rows
from deploy.compare_table import in_readme
from deploy.readme import update

ROWS = Path(__file__).parent / "results" / "compare.json"


def main() -> None:
    """Bring README.md up to date."""
    update(partial(in_readme, rows=read_rows(ROWS)))


if __name__ == "__main__":
    main()
