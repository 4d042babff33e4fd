"""Counts have the noun that fits them, and a line cut short keeps its fix."""

from pathlib import Path

import pytest

import common.text
from common.text import counted, did_you_mean, nearest, shortened

CAUSE = "cannot write /var/lib/takt/state/students/17/student.safetensors: " + 30 * "x"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes"), (1797, "1,797")]
)
def test_one_is_singular_and_all_else_plural(count: int, text: str) -> None:
    assert counted(count, "node").startswith(text)


def test_an_odd_plural_is_given() -> None:
    assert counted(2, "class", "classes") == "2 classes"


@pytest.mark.parametrize("most", [60, 80, 100])
def test_a_line_cut_short_keeps_its_beginning_and_its_fix(most: int) -> None:
    line = shortened(f"{CAUSE}; also this; free space or fix the disk", most)
    assert len(line) <= most
    assert line.startswith("cannot write") and line.endswith(
        "free space or fix the disk"
    )


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert shortened(CAUSE, len(CAUSE)) == CAUSE


@pytest.mark.parametrize("line", [CAUSE, "no; " + CAUSE])
def test_without_a_fix_that_fits_the_beginning_is_kept(line: str) -> None:
    assert shortened(line, 40) == line[:37] + "..."


def test_a_mistyped_name_is_answered_with_the_nearest_one_known() -> None:
    known = ("epochs", "model")
    assert nearest("epoch", known) == "epochs"
    assert did_you_mean("epoch", known) == "; did you mean 'epochs'?"
    assert nearest("zzz", known) is None
    assert did_you_mean("zzz", known) == ""


def test_the_nearest_name_is_looked_for_by_one_function() -> None:
    root = Path(common.text.__file__).parents[1]
    folders = ("cloud", "common", "deploy", "edge")
    found = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*.py")
        if "import difflib" in path.read_text(encoding="utf-8")
    ]
    assert found == ["common/text.py"]
