"""The keys of a config file as Markdown tables, made from its models.

The note on a key is the docstring under its field. Not here: where the tables stand
(docs.py), and the words for values and defaults (deploy.runtime.config_keys).
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from common.config import RunConfig, Section
from deploy.runtime.config_keys import default_of, note_of, title_of, value_of
from edge.config import EdgeConfig


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
            default = "required" if fields[key].is_required() else default_of(entry)
            note = note_of(fields[key].description).replace("|", "\\|")
            yield f"| `{key}` | {value_of(entry)} | {default} | {note} |"
        yield ""


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
