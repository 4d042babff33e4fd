"""The keys of a run's config in words: what each may hold, its default, its note.

The note is the docstring under the field. Not here: reading a config
(deploy.runtime.settings), tables of the documentation (deploy.dev.config_tables).
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from common.config import RunConfig, Section
from common.errors import ConfigError
from common.text import nearest

_UNITS = {
    "pixel scale": 'above 0, at most 1: `0.15`, `"8/255"`',
    "host:port": "host:port",
    "model": "[a model](#models)",
    "proxy": 'host:port or `"none"`',
}
BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
    "minItems": "at least",
    "minProperties": "at least",
}


def explain_key(key: str) -> list[str]:
    """Say in lines what a dotted key of a run's config means.

    Args:
        key: for instance "teacher.epochs"; the name of a student, a node or a candidate
            may be in it or be left out: "nodes.profile.cpus", "nodes.hub.profile.cpus".

    Raises:
        ConfigError: there is no such key.
    """
    schema = _schema()
    table: dict[str, Any] = schema
    entry: dict[str, Any] = {}
    required = may_be_name = False
    for place, part in enumerate(key.split(".")):
        known = table.get("properties", {})
        if part in known:
            entry, required = known[part], part in table.get("required", ())
            table = _table_in(entry, schema)
            may_be_name = "items" in entry or "patternProperties" in entry
        elif may_be_name:
            may_be_name = False
        else:
            raise _unknown(key, place, known)
    return list(_lines(key, entry, table, required=required))


@cache
def _schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def _lines(
    key: str, entry: Mapping[str, Any], table: Mapping[str, Any], *, required: bool
) -> Iterator[str]:
    note = note_of(entry.get("description") or table.get("description"))
    yield f"{key}: {note}" if note else key
    yield f"value: {_plain(value_of(dict(entry)))}"
    yield f"default: {'-, it is required' if required else _plain(default_of(entry))}"
    if table:
        yield f"keys: {', '.join(table['properties'])}"


def _table_in(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the table that a key holds, or of each; {}: no table."""
    found = re.search(r"#/\$defs/(\w+)", json.dumps(entry))
    return {} if found is None else dict(schema["$defs"][found[1]])


def _unknown(key: str, place: int, known: Mapping[str, Any]) -> ConfigError:
    """Say which part of a key is unknown, with the nearest key if that is one."""
    parts = key.split(".")
    part = parts[place]
    if (name := nearest(part, known)) is not None:
        other = ".".join([*parts[:place], name, *parts[place + 1 :]])
        with contextlib.suppress(ConfigError):
            explain_key(other)
            return ConfigError(f"unknown key '{key}'; did you mean '{other}'?")
    where = f"known there: {', '.join(known)}" if known else "nothing is below that key"
    return ConfigError(f"unknown key '{key}': no '{part}'; {where}")


def _plain(text: str) -> str:
    """Write what is Markdown in a text as a terminal shows it."""
    model = "a model, see takt models list"
    return text.replace("[a model](#models)", model).replace("`", "")


def title_of(name: str) -> str:
    """Name a section as people do: ``TeacherConfig`` is "Teacher"."""
    return {"RunConfig": "The file", "EdgeConfig": "edge.toml"}.get(
        name, name.removesuffix("Config")
    ) + "."


def note_of(description: str | None) -> str:
    """Write a field's description as one line."""
    return " ".join((description or "").split()).replace("None:", "left out:")


def value_of(entry: dict[str, Any]) -> str:
    """Describe what a key may hold."""
    if "anyOf" in entry:
        options = [o for o in entry["anyOf"] if o.get("type") != "null"]
        return " or ".join(value_of(option) for option in options)
    if "$ref" in entry:
        return f"a table: {title_of(entry['$ref'].split('/')[-1])[:-1]}"
    if "enum" in entry:
        return ", ".join(f'`"{value}"`' for value in entry["enum"])
    if "const" in entry:
        return f'`"{entry["const"]}"`'
    if entry.get("type") == "array":
        items = value_of(entry.get("items") or entry["prefixItems"][0])
        for one, many in (("a table", "tables"), ("whole number", "whole numbers")):
            items = items.replace(one, many)
        return f"a list of {items}"
    if entry.get("type") == "object":
        (values,) = entry.get("patternProperties", {}).values()
        return f"by name, {value_of(values)}"
    if unit := entry.get("unit"):
        return _UNITS[unit]
    words = {"integer": "whole number", "number": "number", "boolean": "true, false"}
    kind = words.get(entry["type"], "a path" if entry.get("format") else "text")
    if "pattern" in entry:
        kind = "a name"
    bounds = [f"{sign} {entry[b]}" for b, sign in BOUNDS.items() if b in entry]
    return " ".join([kind, *bounds])


def default_of(entry: Mapping[str, Any]) -> str:
    """Write a key's default as TOML would."""
    value = entry.get("default")
    if value is None:
        return "-"
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list):
        return f"`{json.dumps(value)}`" if value else "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def effective(
    config: RunConfig, of_file: Mapping[str, Any], typed: Mapping[str, str]
) -> Iterator[tuple[str, Any, str]]:
    """List each key of a config with its value and where that comes from.

    Args:
        config: with all options.
        of_file: the tree of the file alone.
        typed: what messages call each option, by the key that it sets.
    """
    for key, value in leaves(_tree(config)):
        options = [name for of, name in typed.items() if f"{key}.".startswith(f"{of}.")]
        in_file = _is_in(of_file, key.split("."))
        origin = "the file" if in_file else "default"
        yield key, value, options[-1] if options else origin


def _tree(value: Any) -> Any:
    """Turn a config into plain values, with the keys that its dump leaves out."""
    if isinstance(value, Section):
        return {key: _tree(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tree(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walk to what is no table; tables of a list are named by their `name`."""
    inner = value
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        inner = {v.get("name", str(i)): v for i, v in enumerate(value)}
    if not isinstance(inner, dict) or not inner:
        yield key, value
        return
    for name, item in inner.items():
        yield from leaves(item, f"{key}.{name}" if key else name)


def _is_in(tree: Any, path: list[str]) -> bool:
    for part in path:
        if isinstance(tree, list):  # a repeated node is of the entry that it repeats
            named = [t for t in tree if isinstance(t, dict) and "name" in t]
            tree = next(
                (t for t in named if _repeats(str(t["name"]), part)),
                tree[int(part)] if part.isdecimal() and int(part) < len(tree) else None,
            )
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return False
    return tree is not None


def _repeats(name: str, part: str) -> bool:
    """Whether a node is called `name` or repeats that one: "hub", "hub-2"."""
    return re.fullmatch(rf"{re.escape(name)}(-\d+)?", part) is not None
