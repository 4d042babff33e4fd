"""Pages that name tests: which they name, and which of these do not exist."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
_FAULT = re.compile(r"^\| ([A-D]\d+) \| .+ \| (.*)\|$", re.MULTILINE)
_NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def named_tests(text: str) -> list[tuple[str, str]]:
    """List (file, test) as a part of a page names them; files count from tests/."""
    return _NAMED.findall(text)


def fault_table() -> dict[str, str]:
    """Read FAULTS.md: of each case, in order, what shows it.

    Raises:
        ValueError: a case has two rows.
    """
    rows = _FAULT.findall((TESTS / "FAULTS.md").read_text())
    table = dict(rows)
    if len(table) != len(rows):
        raise ValueError("FAULTS.md: a case has two rows")
    return table


def missing_tests(text: str) -> list[str]:
    """List the tests that a part of a page names and that are not there."""
    return [name for file, name in named_tests(text) if name not in _tests_of(file)]


@functools.cache
def _tests_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
