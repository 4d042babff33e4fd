"""The first key in which two trees of config values differ, with both values.

Not here: which trees are compared, and what a difference means.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Difference(NamedTuple):
    """One key with its two values, as a message shows them."""

    key: str
    wanted: str
    recorded: str


def first_difference(
    wanted: Mapping[str, object], recorded: Mapping[str, object], table: str = ""
) -> Difference | None:
    """Compare two trees of tables and plain values, key by key.

    Args:
        wanted: of the present config.
        recorded: of an earlier one; a key that is missing counts as None.
        table: dotted key of both trees, with a dot at its end.
    """
    for name in [*wanted, *(name for name in recorded if name not in wanted)]:
        one, other = wanted.get(name), recorded.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found = first_difference(one, other, f"{table}{name}.")
            if found is not None:
                return found
        elif one != other:
            return Difference(f"{table}{name}", _shown(one), _shown(other))
    return None


def _shown(value: object) -> str:
    if value is None:
        return "(none)"
    return "(a table)" if isinstance(value, Mapping) else repr(value)
