"""How far stage 1 is: read from what its jobs write into the storage folder.

The jobs run on the cluster, perhaps on other machines; the folder is what the driver
and they share. Not here: the jobs, and how it is shown (deploy.runtime.progress).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from cloud.storage import StorageDir
from common.config import RunConfig
from deploy.report.wording import describe_progress
from deploy.runtime.progress import Display


class Progress(NamedTuple):
    """How far a piece of work is."""

    share: float | None = None  # in [0, 1]; None: not known
    detail: str = ""


def teacher_progress(config: RunConfig, storage: StorageDir) -> Progress:
    """Say how far the training of the teacher, or of all candidates, is."""
    if config.choice is None:
        epoch = _last_line(storage.progress)
        return Progress(
            _share(epoch, "epoch", "epochs"), describe_progress(epoch, config)
        )
    wanted = len(config.choice.candidates)
    logs = storage.candidates.glob(f"*/{storage.progress.name}")
    epochs = [_last_line(path) for path in sorted(logs, key=_written)]
    shares = [_share(epoch, "epoch", "epochs") or 0.0 for epoch in epochs[:wanted]]
    if not shares:
        return Progress()
    text = (
        f"candidate {len(shares)} of {wanted}, {describe_progress(epochs[-1], config)}"
    )
    return Progress(sum(shares) / wanted, text)


def knowledge_progress(storage: StorageDir) -> Progress:
    """Say how far the extraction of knowledge is."""
    line = _last_line(storage.knowledge_progress)
    if not line:
        return Progress()
    text = f"{line.get('done')} of {line.get('total')} samples"
    return Progress(_share(line, "done", "total"), text)


def weights_progress(config: RunConfig, storage: StorageDir) -> Progress:
    """Say how far the distillation of starting weights is."""
    lines = {
        student: _last_line(storage.starting_progress(student))
        for student in config.students
    }
    if not any(lines.values()):
        return Progress(detail="waiting for workers")
    shares = [_share(line, "epoch", "epochs") or 0.0 for line in lines.values()]
    text = ", ".join(
        f"{student} {line['epoch']}/{line['epochs']}"
        for student, line in lines.items()
        if line
    )
    return Progress(mean(shares), f"epochs of {text}")


def read_lines(path: Path) -> list[dict[str, object]]:
    """Read a progress file; empty where there is none, or it is damaged."""
    try:
        found = [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError):
        return []
    return [each for each in found if isinstance(each, dict)]


@contextmanager
def shown(
    display: Display, name: str, purpose: str, look: Callable[[], Progress]
) -> Iterator[None]:
    """Show how far a step of stage 1 is while the body does it."""
    with display.step(name, purpose) as step:

        def update() -> None:
            found = look()
            step.update(found.share, detail=found.detail)

        with display.following(update):
            yield


def _last_line(path: Path) -> dict[str, object]:
    """Read the last line of a progress file; empty where there is none yet."""
    try:
        last = json.loads(path.read_bytes().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return last if isinstance(last, dict) else {}


def _share(line: Mapping[str, object], done: str, total: str) -> float | None:
    count, of = line.get(done), line.get(total)
    if not isinstance(count, int) or not isinstance(of, int) or of < 1:
        return None
    return min(count / of, 1.0)


def _written(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except OSError:
        return 0.0
