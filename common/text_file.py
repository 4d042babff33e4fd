"""Text files that a user wrote: how they are read, and why one cannot be.

An editor may have put a byte-order mark before the text. Not here: TOML
(common.config.toml_file), what takt wrote itself (common.durable), and what somebody
else could have put there (common.regular_file).
"""

from pathlib import Path

from common.errors import one_line


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, without its byte-order mark.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not such text.
    """
    return path.read_text(encoding="utf-8-sig")


def reason_of(error: OSError | ValueError) -> str:
    """Say why a text file was not read, for the inside of a line that names the file.

    Args:
        error: of `read_text`, or of the parser of what it read.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return one_line(error)
