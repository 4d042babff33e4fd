"""The table of what users bring: each row names tests that exist."""

import pytest
from named_tests import TESTS, missing_tests, named_tests

PAGE = (TESTS / "SURROUNDINGS.md").read_text()
HEADS = ("| brought ", "| reported at ", "| --- ")
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(HEADS)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_each_row_names_tests_that_exist(row: str) -> None:
    assert named_tests(row)
    assert missing_tests(row) == []
