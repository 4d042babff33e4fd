"""What the present pydantic says of wrong values, all of it put into takt's words."""

import json
import math
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from common.config import RunConfig
from common.explain import EXPECTED, expectation, explain
from deploy.runtime.settings import read_shipped
from edge.config import EdgeConfig

TREES: dict[type[BaseModel], dict[str, Any]] = {
    RunConfig: tomllib.loads(read_shipped("digits", "configs")[1]),
    EdgeConfig: {
        "node": "sensor",
        "student": "tiny",
        "gateway": "cloud.example:7443",
        "profile": {"cpus": 1.0, "memory_mib": 500, "bandwidth_kib_s": 10},
    },
}
WRONG = [
    *(-1, 0, 1.5, 10**30, math.inf, math.nan, True, None),
    *("", "a b", "x" * 200, [], [1], {}, {"a": 1}),
]
# Of strings, which files have none of where a number belongs, but command lines have.
TYPED = [(int, "many"), (int, "9" * 5000), (float, "many")]
ANSWERED_ELSEWHERE = {"missing", "extra_forbidden", "value_error", "literal_error"}
LIBRARY_WORDS = re.compile(r"[Ii]nput should|should (match|have)|pattern|\^\[|valid ")


def keys(
    schema: dict[str, Any], node: dict[str, Any], path: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """List where values stand in a config, tables of tables and lists included."""
    for option in node.get("anyOf", ()):
        yield from keys(schema, option, path)
    if "$ref" in node:
        yield from keys(schema, schema["$defs"][node["$ref"].split("/")[-1]], path)
    for name, inner in node.get("properties", {}).items():
        yield (*path, name)
        yield from keys(schema, inner, (*path, name))
    for inner in node.get("patternProperties", {}).values():
        yield (*path, "new")
        yield from keys(schema, inner, (*path, "new"))
    if "items" in node:
        yield (*path, 0)
        yield from keys(schema, node["items"], (*path, 0))


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Set one value in a copy of a tree; lists and tables on the way are made."""
    if not path:
        return value
    step, *rest = path
    if step == 0:
        first, *others = tree if isinstance(tree, list) and tree else [{}]
        return [with_value(first, tuple(rest), value), *others]
    table = dict(tree) if isinstance(tree, dict) else {}
    table[step] = with_value(table.get(step), tuple(rest), value)
    return table


def faults(model: type[BaseModel]) -> Iterator[ValidationError]:
    schema = model.model_json_schema()
    for path in keys(schema, schema):
        for value in WRONG:
            try:
                text = json.dumps(with_value(TREES[model], path, value))
                model.model_validate_json(text, context={"folder": "."})
            except ValidationError as e:
                yield e


@pytest.mark.parametrize("model", TREES)
def test_no_wrong_value_of_any_key_is_answered_in_the_librarys_words(
    model: type[BaseModel],
) -> None:
    found = 0
    for error in faults(model):
        found += 1
        text = explain(error, model).text
        assert not LIBRARY_WORDS.search(text), text
        assert "\n" not in text
    assert found > 100


def test_the_table_of_translations_is_that_of_the_present_pydantic() -> None:
    seen = {
        each["type"] for model in TREES for e in faults(model) for each in e.errors()
    }
    for kind, value in TYPED:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(kind).validate_python(value)
        first = caught.value.errors()[0]
        seen.add(first["type"])
        assert "whole number" in expectation(first) or kind is float
    assert set(EXPECTED) == seen - ANSWERED_ELSEWHERE - {"address"}


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("channel",), "A b", "channel = 'A b': expected 1 to 63 of a-z, 0-9, - and _"),
        (("teacher", "epochs"), 0, "teacher.epochs = 0: expected 1 or more"),
        (("teacher", "epochs"), True, "teacher.epochs = true: expected a whole number"),
        (("teacher",), 3, "teacher = 3: expected a table of keys"),
        (("nodes",), {}, "nodes = (a table): expected a list in brackets"),
        (("threat", "norm"), "L2", "threat.norm = 'L2': expected 'Linf'"),
        (("students", "A"), {}, "students.A = 'A': expected 1 to 63 of a-z"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(
    path: tuple[Any, ...], value: Any, line: str
) -> None:
    tree = with_value(TREES[RunConfig], path, value)
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate_json(json.dumps(tree))
    assert explain(caught.value, RunConfig).text.startswith(line)
