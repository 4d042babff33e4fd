"""Shows what a node's daemon does, from its status.json, while it runs in this process.

Not here: what the daemon logs, and its status (edge.daemon.status).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.runtime.progress import Display
from edge.state import read_status


@contextmanager
def followed(display: Display, state_dir: Path) -> Iterator[None]:
    """Show the states that the daemon goes through while the body runs it."""
    began = time.time()
    with display.step("node") as step:

        def update() -> None:
            status = read_status(state_dir)
            if status.time < began:  # of the daemon before
                return
            epochs = f"epoch {status.epoch}/{status.epochs}" if status.epochs else ""
            share = status.progress or None
            step.update(share, stage=status.state, detail=status.message or epochs)

        with display.following(update):
            yield
