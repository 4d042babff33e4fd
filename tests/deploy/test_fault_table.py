"""The table of the 53 faults: each case has its row, each named test exists."""

import pytest
from named_tests import fault_table, missing_tests, named_tests

CASES = [
    f"{letter}{number}"
    for letter, last in (("A", 17), ("B", 12), ("C", 12), ("D", 12))
    for number in range(1, last + 1)
]


def test_each_of_the_53_cases_has_one_row() -> None:
    assert len(CASES) == 53
    assert list(fault_table()) == CASES


@pytest.mark.parametrize("case", CASES)
def test_each_case_names_tests_that_exist(case: str) -> None:
    shown_by = fault_table()[case]
    assert named_tests(shown_by)
    assert missing_tests(shown_by) == []
