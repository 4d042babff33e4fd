"""Pieces of the lines that people read: counts with nouns, hints, and lines cut short.

Not here: the messages themselves, and errors of libraries (common.errors.one_line).
"""

import difflib
from collections.abc import Iterable

_GAP = " ... "


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun: "1 node", "2 nodes", "1,797 images".

    Args:
        count: how many.
        noun: for one.
        plural: for all other counts; None: the noun with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Write out what would steer a terminal, or turn or hide the text beside it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(line: str, most: int) -> str:
    """Cut a line of "what is wrong; how to mend it" down to `most` characters.

    What goes is from the middle: the beginning says what is wrong, and what follows the
    last "; " is the fix. Where that alone is too long, its end goes.
    """
    if len(line) <= most:
        return line
    _, _, fix = line.rpartition("; ")
    room = most - len(_GAP) - len(fix)
    if room < most // 4:  # no fix, or one that leaves the cause no place
        return line[: most - 3] + "..."
    return line[:room].rstrip() + _GAP + fix


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one is nearest to; None: none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Write "; did you mean 'epochs'?" for the end of a line; "" where none is near."""
    close = nearest(name, known)
    return "" if close is None else f"; did you mean '{close}'?"
