"""Writing TOML: tables, lists of tables and plain values. Reading it is tomllib's.

Not here: what the keys mean (common/config/run.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_toml(tree: Mapping[str, Any]) -> str:
    """Write a tree of tables, lists and plain values as TOML."""
    lines: list[str] = []
    _write_table(tree, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(
    table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]
) -> None:
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if key not in inner and not _is_table_list(value):
            lines.append(f"{json.dumps(key) if ' ' in key else key} = {_value(value)}")
    for key, value in inner.items():
        lines += ["", f"[{'.'.join((*path, key))}]"]
        _write_table(value, (*path, key), lines)
    for key, value in table.items():
        if _is_table_list(value):
            for item in value:
                lines += ["", f"[[{'.'.join((*path, key))}]]"]
                lines += [f"{k} = {_value(v)}" for k, v in item.items()]


def _is_table_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _value(value: object) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    # JSON's numbers, strings and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False)
