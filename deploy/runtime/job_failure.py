"""How a cloud job tells others, through its storage folder, that it failed.

failure.json is there from a failed job's end to the next one's start. Not here:
who waits for the job (deploy/simulation/collect.py).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.durable import write_atomic
from common.errors import TaktError, error_of

FILE = "failure.json"


@contextmanager
def recorded_failure(storage: Path) -> Iterator[None]:
    """Forget the last failure; write down the one that ends the body."""
    (storage / FILE).unlink(missing_ok=True)
    try:
        yield
    except TaktError as e:
        if storage.is_dir():
            tree = {"code": e.exit_code, "message": str(e)}
            write_atomic(storage / FILE, json.dumps(tree, indent=1).encode())
        raise


def raise_recorded(storage: Path) -> None:
    """Raise what the last job failed with, if it did.

    Raises:
        TaktError: it did; of the same class, in the same words.
    """
    try:
        tree = json.loads((storage / FILE).read_bytes())
        code, message = int(tree["code"]), str(tree["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    raise error_of(code)(f"the cloud job failed: {message}")
