"""Errors: the exit codes that users script against are the documented ones."""

import re

import pytest
from pydantic import BaseModel, Field, ValidationError

import common.errors
from common.errors import (
    OUT_OF_MEMORY,
    CapError,
    ConfigError,
    Interrupted,
    TaktError,
    error_of,
    exit_codes,
    one_line,
    public_errors,
)


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


def test_every_error_class_has_a_line_in_the_table_of_exit_codes() -> None:
    listed = {name: code for code, name, _ in exit_codes()}
    kinds = [
        kind
        for kind in vars(common.errors).values()
        if isinstance(kind, type)
        and issubclass(kind, TaktError)
        and kind is not Interrupted
    ]
    assert {kind.__name__: kind.exit_code for kind in kinds}.items() <= listed.items()
    assert {0, 70, 130, 141, 143} <= {code for code, _, _ in exit_codes()}


def test_an_error_code_leads_back_to_its_class() -> None:
    assert error_of(ConfigError.exit_code) is ConfigError
    assert error_of(99) is TaktError


def test_a_child_that_ran_out_of_memory_ends_with_a_code_of_its_own() -> None:
    others = [
        kind.exit_code for kind in public_errors() if not issubclass(kind, CapError)
    ]
    assert OUT_OF_MEMORY not in others


def test_a_record_that_does_not_fit_is_one_line_in_our_words() -> None:
    class Small(BaseModel):
        epochs: int = Field(ge=1)

    for text, line in {
        '{"epochs": 0}': "epochs = 0: expected 1 or more",
        "{}": "key 'epochs' is missing; add it",
        '{"epochs": ': "it is no whole JSON",
    }.items():
        with pytest.raises(ValidationError) as caught:
            Small.model_validate_json(text)
        assert one_line(caught.value) == line


@pytest.mark.parametrize(("code", "words"), [(8, "is not there"), (11, "none yet")])
def test_the_table_says_which_code_stands_for_what_is_not_there(
    code: int, words: str
) -> None:
    assert [words in meaning for own, _, meaning in exit_codes() if own == code] == [
        True
    ]
