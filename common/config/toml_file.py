"""TOML: a file becomes a frozen model, options are set in it, trees are written.

tomllib reads, tomlkit writes: a file in which an option is set keeps its comments. Not
here: the keys and their bounds (run.py), what is wrong with a value, in words
(common.explain), which file and which options a command means
(deploy.runtime.settings).
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from common.errors import ConfigError
from common.explain import Complaint, explain
from common.text_file import read_text, reason_of

_MOST_INTEGER = 2**63 - 1

ModelT = TypeVar("ModelT", bound=BaseModel)


class WrongKeyError(ConfigError):
    """A key or value of a config is wrong."""

    def __init__(self, source: str, complaint: Complaint, key: str) -> None:
        """Name the text; `key` is the complaint's as `set_options` would have it."""
        super().__init__(f"{source}: {complaint.text}")
        self.complaint = complaint
        self.key = key


def load_config(path: Path, model: type[ModelT]) -> ModelT:
    """Read a TOML file into a frozen model.

    Args:
        path: the file.
        model: the class that the whole file must match.

    Raises:
        ConfigError: the file is missing or unreadable, is not TOML, or a key or
            value in it is wrong.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"cannot read config {path}: {reason_of(e)}; name the TOML file by --config"
        ) from e
    return parse_config(text, model, source=str(path), folder=path.resolve().parent)


def parse_config(
    text: str, model: type[ModelT], *, source: str, folder: Path = Path()
) -> ModelT:
    """Parse TOML text; see `load_config`.

    Args:
        text: the TOML.
        model: the class that the whole text must match.
        source: names the text in messages.
        folder: from which relative paths in it count.

    Raises:
        WrongKeyError: a key or value is wrong.
        ConfigError: the text is not TOML.
    """
    tree = _tree(text, source)
    if huge := _beyond_64_bits(tree):
        key, value = huge
        why = f"expected a number of at most {_MOST_INTEGER:,}, TOML's largest"
        digits = f"a number of {len(str(abs(value)))} digits"
        complaint = Complaint(key, f"'{key}' is {digits}: {why}", why)
        raise WrongKeyError(source, complaint, _with_names(key, tree))
    try:
        # Through JSON: strict types, yet lists become tuples and strings paths.
        return model.model_validate_json(
            json.dumps(tree, default=str), context={"folder": folder}
        )
    except ValidationError as e:
        if other := _of_another_kind(tree, model):
            raise ConfigError(f"{source} looks like {other} {source}") from e
        found = explain(e, model)
        raise WrongKeyError(source, found, _with_names(found.key, tree)) from e


def _of_another_kind(tree: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """Tell the other kind of config file by its tables; None: it is not that."""
    others = (
        ({"gateway", "profile"}, "a node's file; run it by: takt edge run --config"),
        ({"teacher", "knowledge"}, "a run's config; run it by: takt simulate --config"),
    )
    for keys, what in others:
        if keys <= tree.keys() and not keys <= model.model_fields.keys():
            return what
    return None


def set_options(text: str, options: Mapping[str, object], *, source: str) -> str:
    """Set values in TOML text; what is not set stays as it is written.

    Args:
        text: the TOML.
        options: values by dotted key; a part of a key may be the `name` of a table in
            a list of tables, as in ``nodes.sensor.profile.delay_ms``.
        source: names the text in messages.

    Raises:
        ConfigError: the text is not TOML, or a key leads through a plain value.
    """
    import tomlkit  # 60 ms, and most commands write no TOML
    from tomlkit.exceptions import TOMLKitError

    tree = _tree(text, source)
    plain = {key: _plain(value) for key, value in options.items()}
    for key, value in plain.items():
        _put(tree, key, value)
    try:
        document = tomlkit.parse(text)
        for key, value in plain.items():
            _put(document, key, value)
        changed = tomlkit.dumps(document)
        if tomllib.loads(changed) == tree:
            return changed
    except (ConfigError, TOMLKitError, tomllib.TOMLDecodeError):
        pass  # an odd layout that tomlkit cannot edit: values count, comments do not
    return to_toml(tree)


def to_toml(tree: Mapping[str, Any]) -> str:
    """Write a tree of tables, lists and plain values; tomllib reads the same back."""
    import tomlkit

    return tomlkit.dumps(_plain(tree))


def _tree(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{source} is not valid TOML: {e}") from e
    except (ValueError, RecursionError) as e:  # Python's bounds, not TOML's
        raise ConfigError(
            f"{source} has a number of thousands of digits, or thousands of brackets "
            "in each other; expected none such, correct that value"
        ) from e


def _beyond_64_bits(tree: Any, key: str = "") -> tuple[str, int] | None:
    """Find an integer that TOML need not hold, and its dotted key.

    Python reads any; what takt computes with it (seconds, bytes, steps) would overflow
    somewhere, long after.
    """
    if isinstance(tree, int) and abs(tree) > _MOST_INTEGER:
        return key, tree
    inner: Iterable[tuple[object, Any]] = ()
    if isinstance(tree, dict):
        inner = tree.items()
    elif isinstance(tree, list):
        inner = enumerate(tree)
    for name, value in inner:
        if found := _beyond_64_bits(value, f"{key}.{name}".lstrip(".")):
            return found
    return None


def _plain(value: Any) -> Any:
    """Turn paths into strings, and any sequence or mapping into TOML's."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    """Set one value by its dotted key."""
    *path, last = key.split(".")
    place: Any = tree
    for part in path:
        inner = _inner(place, part)
        if inner is None and isinstance(place, list) and (names := _names(place)):
            raise ConfigError(
                f"cannot set {key}: no table of that list is called '{part}'; there "
                f"are {', '.join(names)}"
            )
        place = inner
    if not isinstance(place, dict):
        raise ConfigError(
            f"cannot set {key}: {'.'.join(path)} is not a table; expected a key such "
            "as teacher.epochs or nodes.sensor.profile.delay_ms"
        )
    place[last] = value


def _with_names(key: str, tree: Any) -> str:
    """Write a dotted key with the `name` of each table of a list for its index."""
    parts = []
    for part in key.split("."):
        if isinstance(tree, list) and part.isdecimal():
            tree = tree[int(part)] if int(part) < len(tree) else None
            name = tree.get("name") if isinstance(tree, dict) else None
            parts.append(str(name) if name else part)
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
            parts.append(part)
    return ".".join(parts)


def _names(tables: list[Any]) -> list[str]:
    """List the `name` of each table of a list."""
    return [str(t["name"]) for t in tables if isinstance(t, dict) and "name" in t]


def _inner(place: Any, part: str) -> Any:
    """Step into a table, made where missing, or the one of that name in a list."""
    if isinstance(place, dict):
        return place.setdefault(part, {})
    tables = place if isinstance(place, list) else []
    named = (t for t in tables if isinstance(t, dict) and t.get("name") == part)
    return next(named, None)
