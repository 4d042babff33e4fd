"""What tests say of changed code, also where they cannot be run with it any more."""

import sys
from pathlib import Path

import pytest
from clone import Copy, Verdict

BROKEN = "import no_such_module\n"
ENDS = "def pytest_collection_modifyitems():\n    raise ValueError\n"


def verdict(folder: Path, **files: str) -> Verdict:
    """Ask for the verdict of one test file, in a clone of these files alone."""
    copy = Copy.__new__(Copy)  # without the copy of the whole clone
    copy.root, copy._report = folder, folder / "report.xml"
    copy._python = sys.executable
    (folder / "tests").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n    docker\n")
    for name, text in files.items():
        (folder / "tests" / f"{name}.py").write_text(text)
    return copy.verdict(["test_it.py"])


def test_tests_that_pass_say_nothing(tmp_path: Path) -> None:
    found = verdict(tmp_path, test_it="def test_one():\n    pass\n")
    assert found == (("test_it.py::test_one",), (), "", "")


def test_a_test_that_fails_says_why(tmp_path: Path) -> None:
    found = verdict(tmp_path, test_it="def test_one():\n    assert 1 == 2\n")
    assert found.failed == ("test_it.py::test_one",)
    assert "1 == 2" in found.says


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"test_it": BROKEN}, "cannot be collected"),
        ({"test_it": "", "conftest": ENDS}, "ended in an error of pytest's own"),
        ({"test_it": "", "conftest": BROKEN}, "cannot be started"),
    ],
)
def test_changed_code_that_tests_cannot_be_run_with_is_noticed(
    files: dict[str, str], says: str, tmp_path: Path
) -> None:
    assert verdict(tmp_path, **files) == ((), ("test_it.py",), "test_it.py", says)
