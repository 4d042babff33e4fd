"""The table of breaks: every case has one, and each still fits the code."""

import ast
from pathlib import Path

import pytest
from broken import Break, edited, read_breaks
from named_tests import fault_table

ROOT = Path(__file__).resolve().parents[2]
BREAKS = read_breaks()


def test_each_of_the_53_cases_has_a_break() -> None:
    assert list(dict.fromkeys(b.case for b in BREAKS)) == list(fault_table())


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: f"{b.case}: {b.words}")
def test_each_break_fits_the_code_and_leaves_code(broken: Break) -> None:
    for file, text in edited(broken.edits, ROOT).items():
        assert text != (ROOT / file).read_text()
        if file.endswith(".py"):
            ast.parse(text)
