"""TOML: a file becomes a frozen model, options are set in it, trees are written.

What is wrong with a file is said in one line, with the key, what was expected and what
was found. tomllib reads, tomlkit writes: a file in which an option is set keeps its
comments. Not here: the keys and their bounds (run.py), which file and which options a
command means (deploy.runtime.settings).
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from common.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


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
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read config {path}: {e}; give a TOML file") from e
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
    """
    tree = _tree(text, source)
    try:
        # Through JSON: strict types, yet lists become tuples and strings paths.
        return model.model_validate_json(
            json.dumps(tree, default=str), context={"folder": folder}
        )
    except ValidationError as e:
        raise ConfigError(f"{source}: {_explain(e, model)}") from e


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
        place = _inner(place, part)
    if not isinstance(place, dict):
        raise ConfigError(
            f"cannot set {key}: {'.'.join(path)} is not a table; expected a key such "
            "as teacher.epochs or nodes.sensor.profile.delay_ms"
        )
    place[last] = value


def _inner(place: Any, part: str) -> Any:
    """Step into a table, made where missing, or the one of that name in a list."""
    if isinstance(place, dict):
        return place.setdefault(part, {})
    tables = place if isinstance(place, list) else []
    named = (t for t in tables if isinstance(t, dict) and t.get("name") == part)
    return next(named, None)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say the first of a validation's errors in one line, with the fix."""
    # A misspelt key also makes another one missing: the misspelling is the cause.
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"unknown key '{where}'; {hint}{more}"
    if first["type"] == "missing":
        return f"key '{where}' is missing; add it{more}"
    if first["loc"][-1:] in [("eps",), ("step_size",)]:
        return (
            f"{where} = {first['input']!r}: expected pixel scale, above 0 and at most "
            f'1, for instance "8/255" or 0.15{more}'
        )
    if first["type"] == "literal_error":
        words = first["ctx"]["expected"]
        close = difflib.get_close_matches(
            str(first["input"]), re.findall(r"'([^']*)'", words), n=1
        )
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{where} = {first['input']!r}: expected one of {words}{hint}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {message}{more}"
    return f"{where} = {first['input']!r}: {message}{more}"


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
