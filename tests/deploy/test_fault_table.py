"""The table of the 53 faults: each case has its row, each named test exists."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS / "FAULTS.md").read_text()
CASES = [
    f"{letter}{number}"
    for letter, last in (("A", 17), ("B", 12), ("C", 12), ("D", 12))
    for number in range(1, last + 1)
]
ROW = re.compile(r"^\| ([A-D]\d+) \| (.+) \| (.*)\|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_each_of_the_53_cases_has_one_row() -> None:
    assert len(CASES) == 53
    assert [case for case, _, _ in ROW.findall(PAGE)] == CASES


@pytest.mark.parametrize("case", [case for case in CASES if case != "D12"])
def test_each_case_names_tests_that_exist(case: str) -> None:
    (shown_by,) = [tests for name, _, tests in ROW.findall(PAGE) if name == case]
    named = NAMED.findall(shown_by)
    assert named
    assert [name for file, name in named if name not in names_in(file)] == []
