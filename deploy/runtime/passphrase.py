"""The passphrase of a private key: from a file, the environment, or the terminal.

Never from the command line, which every user of the machine can read. Not here: what it
opens (`cloud.publishing.key_files`), the secrets of a running gateway's signers
(`cloud.publishing.signing_keys`).
"""

import getpass
import os
import sys
from pathlib import Path

from common.errors import ConfigError
from common.text_file import read_text, reason_of

VARIABLE = "TAKT_KEY_PASSPHRASE"


def known_passphrase(file: Path | None, key: object) -> str:
    """Return the passphrase that opens a key; a final line break is none of it.

    Args:
        file: holds it; None: the environment does, or the user is asked.
        key: what it opens, for the question.

    Raises:
        ConfigError: there is none.
    """
    if file is not None:
        try:
            found = read_text(file).rstrip("\r\n")
        except (OSError, ValueError) as e:
            raise ConfigError(
                f"cannot read passphrase {file}: {reason_of(e)}; name the file that "
                "holds it"
            ) from e
    else:
        found = os.environ.get(VARIABLE) or _ask(f"Passphrase of {key}: ")
    if not found:
        raise ConfigError(
            "the passphrase is empty; --no-passphrase leaves a key unencrypted"
        )
    return found


def new_passphrase(file: Path | None) -> str:
    """Return the passphrase of a new key, asked for twice.

    Raises:
        ConfigError: there is none, or the two differ.
    """
    asked = file is None and not os.environ.get(VARIABLE)
    found = known_passphrase(file, "the new key")
    if asked and _ask("Again: ") != found:
        raise ConfigError("the two passphrases differ; nothing was written")
    return found


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            "no passphrase: name its file with --passphrase-file, set "
            f"{VARIABLE}, or run this in a terminal"
        )
    try:
        return getpass.getpass(question)
    except EOFError:
        return ""
