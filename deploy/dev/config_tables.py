"""The keys of a config file as Markdown tables, made from its models.

The note on a key is the docstring under its field. Not here: where the tables stand
(docs.py).
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from common.config import RunConfig, Section
from edge.config import EdgeConfig

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


def run_config_table() -> str:
    """Write every key of a run's config."""
    return "\n".join(sections(RunConfig))


def edge_config_table() -> str:
    """Write every key of a node's edge.toml."""
    return "\n".join(sections(EdgeConfig, inner=False))


def sections(model: type[Section], *, inner: bool = True) -> Iterator[str]:
    """Write a config model as a Markdown table, and then the sections in it."""
    schema = model.model_json_schema()
    found = {m.__name__: m for m in _models_below(Section)}
    for name in [model.__name__, *(_in_order_of_use(schema) if inner else [])]:
        properties = (schema if name == model.__name__ else schema["$defs"][name])[
            "properties"
        ]
        fields = found[name].model_fields
        yield f"**{title_of(name)}** {inspect.getdoc(found[name])}\n"
        yield "| key | value | default | note |"
        yield "| --- | --- | --- | --- |"
        for key, entry in properties.items():
            default = "required" if fields[key].is_required() else _default(entry)
            note = note_of(fields[key].description)
            yield f"| `{key}` | {_value(entry)} | {default} | {note} |"
        yield ""


def title_of(name: str) -> str:
    """Name a section as people do: ``TeacherConfig`` is "Teacher"."""
    return {"RunConfig": "The file", "EdgeConfig": "edge.toml"}.get(
        name, name.removesuffix("Config")
    ) + "."


def note_of(description: str | None) -> str:
    """Write a field's description as a table's cell."""
    text = " ".join((description or "").split())
    return text.replace("|", "\\|").replace("None:", "left out:")


def _models_below(model: type[Section]) -> Iterator[type[Section]]:
    for child in model.__subclasses__():
        yield child
        yield from _models_below(child)


def _in_order_of_use(schema: dict[str, Any]) -> list[str]:
    """List the schema's sub-models in the order in which they first appear."""
    order: list[str] = []

    def visit(node: dict[str, Any]) -> None:
        for name in re.findall(r"#/\$defs/(\w+)", str(node["properties"])):
            if name not in order:
                order.append(name)
                visit(schema["$defs"][name])

    visit(schema)
    return order


def _value(entry: dict[str, Any]) -> str:
    """Describe what a key may hold."""
    if "anyOf" in entry:
        options = [o for o in entry["anyOf"] if o.get("type") != "null"]
        return " or ".join(_value(option) for option in options)
    if "$ref" in entry:
        return f"a table: {title_of(entry['$ref'].split('/')[-1])[:-1]}"
    if "enum" in entry:
        return ", ".join(f'`"{value}"`' for value in entry["enum"])
    if "const" in entry:
        return f'`"{entry["const"]}"`'
    if entry.get("type") == "array":
        items = _value(entry.get("items") or entry["prefixItems"][0])
        for one, many in (("a table", "tables"), ("whole number", "whole numbers")):
            items = items.replace(one, many)
        return f"a list of {items}"
    if entry.get("type") == "object":
        (values,) = entry.get("patternProperties", {}).values()
        return f"by name, {_value(values)}"
    if unit := entry.get("unit"):
        return _UNITS[unit]
    words = {"integer": "whole number", "number": "number", "boolean": "true, false"}
    kind = words.get(entry["type"], "a path" if entry.get("format") else "text")
    if "pattern" in entry:
        kind = "a name"
    bounds = [f"{sign} {entry[b]}" for b, sign in BOUNDS.items() if b in entry]
    return " ".join([kind, *bounds])


def _default(entry: dict[str, Any]) -> str:
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
