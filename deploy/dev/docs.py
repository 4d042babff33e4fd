"""The README's reference parts, made from the code: tree, config keys, exit codes.

    .venv/bin/python -m deploy.dev.docs      brings README.md up to date

The phrase for a module is the first paragraph of its docstring, the note on a
config key is the docstring under its field. A test compares. Not here: prose.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.config import RunConfig, Section
from deploy.dev.readme import put, update
from deploy.runtime.exits import exit_codes
from edge.config import EdgeConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "cloud", "edge", "deploy")
BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
    "minItems": "at least",
    "minProperties": "at least",
}


def up_to_date(readme: str, root: Path = ROOT) -> str:
    """Put today's tree, config keys and exit codes between the README's marks.

    Raises:
        ValueError: a pair of marks is missing.
    """
    parts = {
        "tree": tree(root),
        "run-config": "\n".join(sections(RunConfig)),
        "edge-config": "\n".join(sections(EdgeConfig, inner=False)),
        "exit-codes": exit_code_table(),
    }
    for name, text in parts.items():
        readme = put(readme, name, text)
    return readme


def tree(root: Path) -> str:
    """List every module of the packages with its phrase, as a code block."""
    lines = []
    for package in PACKAGES:
        phrase = phrase_of(root / package / "__init__.py")
        lines += ["", f"{package + '/':24}{phrase}"]
        for path in sorted((root / package).rglob("*.py")):
            name = str(path.relative_to(root / package))
            if path.name != "__init__.py" and not name.startswith("pb/"):
                lines.append(f"  {name:35} {phrase_of(path)}")
    return "\n".join(["```text", *lines[1:], "```"])


def phrase_of(module: Path) -> str:
    """Say what a module is: the first paragraph of its docstring, as one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].replace("``", "").split()).rstrip(".")


def exit_code_table() -> str:
    """Write the exit codes as a Markdown table."""
    rows = [f"| {code} | {meaning} |" for code, _, meaning in exit_codes()]
    return "\n".join(["| code | meaning |", "| ---: | --- |", *rows])


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
        items = _value(entry["items"])
        for one, many in (("a table", "tables"), ("whole number", "whole numbers")):
            items = items.replace(one, many)
        return f"a list of {items}"
    if entry.get("type") == "object":
        (values,) = entry.get("patternProperties", {}).values()
        return f"by name, {_value(values)}"
    if entry.get("unit") == "pixel scale":
        return 'above 0, at most 1: `0.15`, `"8/255"`'
    words = {"integer": "whole number", "number": "number", "boolean": "true, false"}
    kind = words.get(entry["type"], "a path" if entry.get("format") else "text")
    if pattern := entry.get("pattern"):
        kind = "host:port" if ":" in pattern else "a name"
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


def main() -> None:
    """Bring README.md up to date."""
    update(up_to_date)


if __name__ == "__main__":
    main()
