"""Errors: the exit codes that users script against are the documented ones."""

import re

import common.errors
from common.errors import TaktError


def _family(error: type[TaktError]) -> list[type[TaktError]]:
    return [error, *(e for sub in error.__subclasses__() for e in _family(sub))]


def test_every_error_has_the_exit_code_of_the_drawing() -> None:
    text = common.errors.__doc__ or ""
    drawn = {m[1]: int(m[2]) for m in re.finditer(r"(\w+)  +(\d+) ", text)}
    found = {
        e.__name__: e.exit_code
        for e in _family(TaktError)
        if e.__module__ == "common.errors" and "exit_code" in vars(e)
    }
    assert found == drawn


def test_no_two_errors_share_an_exit_code_unless_one_is_the_other() -> None:
    codes = [e.exit_code for e in _family(TaktError) if "exit_code" in vars(e)]
    assert len(codes) == len(set(codes))


def test_every_error_is_drawn() -> None:
    for error in _family(TaktError):
        if error.__module__ == "common.errors":
            assert error.__name__ in (common.errors.__doc__ or "")
