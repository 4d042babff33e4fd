"""What is wrong with a config file, in one line: the key, what was found, the fix.

Not here: reading the file and the models that it must match (config.py).
"""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
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
