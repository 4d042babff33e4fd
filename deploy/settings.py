"""Which config a command means: shipped name or path, and options on top of it.

Options of the command line are the same keys as the file's, so a run can write
down the one config that it really used. Not here: the keys and their bounds
(common.config).
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.config import RunConfig, parse_config
from common.errors import ConfigError
from common.knowledge import check_views


def load_run_config(
    name: str, overrides: Mapping[str, object] | None = None
) -> tuple[RunConfig, str]:
    """Read a run's config and put options on top.

    Args:
        name: of a shipped config, for instance "digits", or a path to a file.
        overrides: values by dotted key, for instance {"dataset.limit": 500}.

    Returns:
        The config, and the same as TOML text: the file's own words where no
        option changed them.

    Raises:
        ConfigError: there is no such file, or a key or value is wrong.
    """
    source, text = _read(name)
    if overrides:
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            raise ConfigError(f"{source} is not valid TOML: {e}") from e
        for key, value in overrides.items():
            _put(tree, key, value)
        text = to_toml(tree)
    config = parse_config(text, RunConfig, source=source)
    for recipe in config.students.values():
        check_views(recipe, config.knowledge)
    return config, text


def parse_assignments(assignments: Sequence[str]) -> dict[str, object]:
    """Read ``key=value`` options; values are TOML, bare words are strings.

    Raises:
        ConfigError: there is no "=" or no key.
    """
    found: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {assignment}: expected key=value, for instance "
                "--set teacher.epochs=5"
            )
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value.strip()
    return found


def shipped_configs() -> list[str]:
    """List the names of the configs that come with takt."""
    folder = files("deploy").joinpath("configs")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def _read(name: str) -> tuple[str, str]:
    path = Path(name)
    if not path.is_file() and name in shipped_configs():
        entry = files("deploy").joinpath("configs", f"{name}.toml")
        return f"{name}.toml", entry.read_text(encoding="utf-8")
    try:
        return name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"cannot read config {name}: {reason}; give a TOML file or one of "
            f"{', '.join(shipped_configs())}"
        ) from e


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"cannot set {key}: {part} is not a table; expected a key such as "
                "teacher.epochs"
            )
    tree[last] = value


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
