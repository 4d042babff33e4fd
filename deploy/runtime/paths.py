"""Paths that a user types: ~ in them, and names that no record could hold.

Not here: paths inside config files (common.config.sections).
"""

import os
from pathlib import Path

from common.errors import ConfigError


def expanded(path: Path) -> Path:
    """Expand ~ and ~name at the start of a path that a user wrote.

    Raises:
        ConfigError: there is no such user, or no home.
    """
    try:
        return path.expanduser()
    except RuntimeError as e:
        raise ConfigError(
            f"cannot tell whose home {path} begins with; write the whole path"
        ) from e


def require_utf_8(path: Path) -> None:
    """Refuse a path that configs and records, which are UTF-8, cannot hold.

    Raises:
        ConfigError: a name in the whole path is not UTF-8.
    """
    whole = os.fsencode(path.absolute())
    try:
        whole.decode()
    except UnicodeDecodeError as e:
        shown = whole.decode(errors="backslashreplace")
        raise ConfigError(
            f"the path {shown} is not UTF-8, as files of takt are; rename that folder"
        ) from e
