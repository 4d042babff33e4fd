"""The README's comparison table, from the committed rows.

    .venv/bin/python tests/bench/table.py     brings README.md up to date

A test compares. The rows come from `takt compare --full`, see deploy/compare.py.
"""

from pathlib import Path

from deploy.compare_rows import read_rows
from deploy.compare_table import in_readme

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "tests" / "bench" / "results" / "compare.json"


def main() -> None:
    """Bring README.md up to date."""
    path = ROOT / "README.md"
    text = in_readme(path.read_text(encoding="utf-8"), read_rows(ROWS))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
