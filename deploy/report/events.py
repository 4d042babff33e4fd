"""The curves of a run for TensorBoard: a folder of event files for each model.

    tensorboard --logdir runs/<id>/tensorboard

Written where tensorboardX is installed, which Ray brings; elsewhere there are none.
Steps are epochs. tensorboardX imports torch, which takes seconds and which a run's own
process stays without: ``python -m deploy.report.events`` is a process of its own, that
writes while the page is drawn. Not here: TensorBoard itself, which takt does not need;
the figures, which are those of result.json and of the teacher's progress file.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common.durable import storing
from deploy.report.result import RunResult, to_json
from deploy.runtime.processes import close_pipes, end_trees, start_worker

EVENTS_DIR = "tensorboard"
Scalars = Mapping[str, float]
_TAGS = {
    "loss": "loss/train",
    "clean_accuracy": "accuracy/clean",
    "robust_accuracy": "accuracy/robust",
    "cpu_s": "cpu_s",
}
_MOST_S = 60  # to wait for the process, behind the page


@contextlib.contextmanager
def writing_events(
    result: RunResult, epochs: Sequence[Mapping[str, object]], run_dir: Path, log: Path
) -> Iterator[None]:
    """Write the curves while the body runs, and wait for their end after it.

    A run without them is whole: that they could not be written is in the log alone.

    Args:
        result: of the run.
        epochs: as in `write_events`.
        run_dir: the same.
        log: takes what the process has to say.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        yield
        return
    writer = start_worker(__name__, log)
    try:
        note = {"result": to_json(result), "epochs": epochs, "run_dir": str(run_dir)}
        with contextlib.suppress(BrokenPipeError):  # it has died, and said why
            assert writer.stdin is not None
            json.dump(note, writer.stdin)
            writer.stdin.close()
        yield
        writer.wait(_MOST_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_trees([writer], grace_s=0)
        close_pipes(writer)


def write_events(
    result: RunResult, epochs: Sequence[Mapping[str, object]], run_dir: Path
) -> None:
    """Write the curves of the teacher, the nodes' students and the baselines.

    Args:
        result: of the run.
        epochs: of the teacher, as its progress file has them; may be empty.
        run_dir: takes the folder `EVENTS_DIR`, unless there is no curve.

    Raises:
        StorageError: the folder cannot be written to.
    """
    curves = {"teacher": _curve(epochs)}
    for each in (*result.nodes, *(result.baselines or ())):
        points = (point.model_dump() for point in each.curve)
        curves[f"{each.name} {each.method}"] = _curve(points)
    for name, curve in curves.items():
        if curve:
            _write(curve, run_dir / EVENTS_DIR / name)


def _curve(epochs: Iterable[Mapping[str, object]]) -> dict[int, Scalars]:
    """Pick what is drawn of each epoch; what was not measured is left out."""
    curve: dict[int, Scalars] = {}
    for each in epochs:
        epoch = each.get("epoch")
        if isinstance(epoch, int):
            found = {tag: each.get(key) for key, tag in _TAGS.items()}
            curve[epoch] = {
                tag: v for tag, v in found.items() if isinstance(v, int | float)
            }
    return curve


def _write(curve: Mapping[int, Scalars], folder: Path) -> None:
    from tensorboardX import SummaryWriter  # which imports torch

    with storing(folder), SummaryWriter(str(folder)) as writer:
        for epoch, scalars in curve.items():
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, epoch)


def main() -> None:
    """Write the events of a run that standard input describes."""
    note = json.load(sys.stdin)
    result = RunResult.model_validate_json(note["result"])
    write_events(result, note["epochs"], Path(note["run_dir"]))


if __name__ == "__main__":
    main()
