"""How the daemon's log looks on stderr: text for people, logfmt or JSON for programs.

One line a record, whatever is in its message. Times are UTC with milliseconds.
Not here: what is logged, and where stderr goes (a terminal, a file, the journal).
"""

import json
import logging
import time
from datetime import UTC, datetime
from typing import IO, Any, Literal

from common.text import printable

LogFormat = Literal["text", "logfmt", "json"]


def log_to(
    stream: IO[str], log_format: LogFormat, *, node: str, quiet: bool = False
) -> None:
    """Send this process's log records to a stream, from now on and there only.

    Args:
        stream: usually stderr.
        log_format: of each line.
        node: named in every record that a program reads.
        quiet: errors alone.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMATS[log_format](node))
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)


class LineFormatter(logging.Formatter):
    """Text for people, whatever the other side of a connection has put in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Write the line of a record, its traceback left out."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Write a traceback, of some lines."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(printable(line) for line in lines)


class _Text(LineFormatter):
    """``2026-01-31 12:00:00,000Z INFO edge.daemon.status: idle``."""

    default_msec_format = "%s,%03dZ"

    def __init__(self, node: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.converter = time.gmtime  # rather than local time


class _Fields(logging.Formatter):
    """Collects what both formats for programs say."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """List a record's fields, in the order in which they are written."""
        at = datetime.fromtimestamp(record.created, UTC)
        found = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return found


class _Logfmt(_Fields):
    """``time=2026-01-31T12:00:00.000Z level=info message="a b"``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        fields = self.fields(record)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


class _Json(_Fields):
    """``{"time": "2026-01-31T12:00:00.000Z", "level": "info", ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        return json.dumps(self.fields(record))


_FORMATS: dict[LogFormat, type[_Text] | type[_Logfmt] | type[_Json]] = {
    "text": _Text,
    "logfmt": _Logfmt,
    "json": _Json,
}


def _quoted(value: str) -> str:
    """Quote a value of logfmt where it would not stay one word."""
    plain = value and value.isprintable() and not set(value) & set(' "=\\')
    return value if plain else json.dumps(value)
