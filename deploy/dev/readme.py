"""The parts of the README that are made, between marks: from code or measured rows.

A part called ``tree`` stands between ``<!-- tree -->`` and ``<!-- /tree -->``. Not
here: what is put there (reference.py, compare_table.py, tests/bench).
"""

from collections.abc import Callable
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def put(readme: str, name: str, text: str) -> str:
    """Put a part's text between its marks; all else stays.

    Raises:
        ValueError: the marks are missing.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in readme or end not in readme:
        raise ValueError(f"expected {start} and {end} in README.md; add them")
    head, _, rest = readme.partition(start)
    return f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}"


def update(change: Callable[[str], str]) -> None:
    """Replace the README's text by what a function makes of it."""
    README.write_text(change(README.read_text(encoding="utf-8")), encoding="utf-8")
