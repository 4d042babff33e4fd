"""What pydantic finds wrong with a config, in takt's words and in one line.

`EXPECTED` has a line for each kind of wrong value, with an example; a test holds that
the kinds are those of the present pydantic. Not here: which file or option the value
came from (common.config.toml_file, deploy.runtime.settings).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from common import names
from common.text import did_you_mean, shortened

_NAME = f'{names.EXPECTED}, for instance "sensor-2"'
_WHOLE, _NUMBER = "a whole number, for instance 3", "a number, for instance 0.5"
_TABLE = "a table of keys, for instance [teacher]"
_LIST = "a list in brackets, for instance [1, 2]"
_TEXT = 'text in quotes, for instance "digits"'
# By pydantic's type of error; braces hold what its context says.
EXPECTED: Mapping[str, str] = {
    "string_pattern_mismatch": _NAME,  # of a name: no other key has a pattern
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number, for instance 0.5",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "a whole number of fewer digits, for instance 3",
    "bool_type": "true or false",
    "string_type": _TEXT,
    "tuple_type": _LIST,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "too_short": "at least {min_length}, found {actual_length}",
}
_PIXELS = 'pixel scale, above 0 and at most 1, for instance "8/255" or 0.15'
_SHOWN = 60  # characters of a wrong value


class Complaint(NamedTuple):
    """What is wrong with one key."""

    key: str  # dotted; "" for the file as a whole
    text: str  # the whole line
    why: str  # the same without the key and its value


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> Complaint:
    """Say the first of a validation's errors in one line, with the fix.

    Args:
        error: of validating JSON or Python values.
        model: that the values were validated by; it knows the keys.
    """
    # A misspelt key also makes another one missing: the misspelling is the cause.
    errors = error.errors(include_url=False)
    first: Mapping[str, Any] = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    loc = tuple(part for part in first["loc"] if part != "[key]")
    key = ".".join(str(part) for part in loc)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = key or "the file"
    if first["type"] == "json_invalid":
        return Complaint(key, "it is no whole JSON", "it is no whole JSON")
    if first["type"] == "extra_forbidden":
        nearest = f"; {_nearest(model, loc)}" if model is not None else ""
        why = f"unknown key '{where}'{nearest}{more}"
        return Complaint(key, why, why)
    if first["type"] == "missing":
        why = f"key '{where}' is missing; add it{more}"
        return Complaint(key, why, why)
    if first["type"] == "value_error":
        why = first["msg"].removeprefix("Value error, ") + more
        return Complaint(key, f"{key}: {why}" if key else why, why)
    why = expectation(first) + more
    return Complaint(key, f"{where} = {_shown(first['input'])}: {why}", why)


def expectation(error: Mapping[str, Any]) -> str:
    """Say what one of pydantic's errors expected; such as "expected true or false"."""
    kind, context = error["type"], error.get("ctx", {})
    if error["loc"][-1:] in [("eps",), ("step_size",)]:
        return f"expected {_PIXELS}"
    if kind == "literal_error":
        words = context["expected"]
        known = re.findall(r"'([^']*)'", words)
        if len(known) == 1:
            return f"expected {words}"
        return f"expected one of {words}{did_you_mean(str(error['input']), known)}"
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind].format(**context)}"
    return str(error["msg"])


def _shown(value: object) -> str:
    """Write a wrong value as it stands in TOML, roughly."""
    if isinstance(value, dict):
        return "(a table)"
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(repr(value), _SHOWN)


def _nearest(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    """Name the known key that is nearest to an unknown one, or all of them."""
    known = _known_keys(model, loc[:-1])
    hint = did_you_mean(str(loc[-1]), known).removeprefix("; ")
    return hint or f"known: {', '.join(known)}"


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """List the keys that are valid at a location of the config tree."""
    current: Any = model
    for part in loc:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            break
        field = current.model_fields.get(str(part))
        if field is None:  # an index of a list or a key of a dict
            continue
        current = _inner_model(field.annotation)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _inner_model(annotation: Any) -> Any:
    """Find the model class inside ``tuple[M, ...]``, ``dict[str, M]`` or ``M``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
