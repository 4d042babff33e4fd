"""Exported students against the float ones: bytes, latency, clean and robust accuracy.

    .venv/bin/python tests/bench/export_bench.py RUN_OR_STUDENT... [--data-dir DIR] \
        [--note TEXT]

Takes students, of a run of `takt simulate` those that its nodes promoted, and exports
each by `takt export` in each format with bounds that refuse nothing, so that a file
that the gate would refuse has a row too. Latency is the median of calls on one thread,
in torch for the float student and in onnxruntime for the files. The rows go to
results/export.json; export_table.py writes the page's table.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rows import Row, read_rows, write_rows

from common.export.bounds import Bounds
from common.export.card import FORMATS
from common.export.session import OnnxStudent, read_onnx
from common.models.files import load_model
from common.models.zoo import num_parameters
from deploy.evaluation.single import dataset_of
from deploy.export import export_student
from deploy.report.result import read_result
from deploy.runtime.progress import Display

ROWS = Path(__file__).parent / "results" / "export.json"
BATCHES = {1: 400, 64: 100}  # images in a call, and calls
ANY = Bounds(clean=1.0, robust=1.0)


def students_of(run: Path) -> list[Path]:
    """List the students that the nodes of a run promoted; a student is itself."""
    if run.is_file():
        return [run]
    paths = [node.student.path for node in read_result(run).nodes if node.student]
    return [run / path for path in paths if path is not None]


def latencies(answer: Callable[[int], object]) -> Row:
    """Measure the median milliseconds of a call, by its number of images."""
    found: Row = {}
    for size, calls in BATCHES.items():
        answer(size)
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            answer(size)
            took.append(time.perf_counter() - began)
        found[f"ms_{size}"] = round(1000 * median(took), 4)
    return found


def answers(
    exported: OnnxStudent, pixels: NDArray[np.float32]
) -> Callable[[int], object]:
    """Answer the first so many of some images."""
    return lambda size: exported.logits(pixels[:size])


def measure(
    path: Path, data_dir: Path | None, *, attacked: int, note: str
) -> list[Row]:
    """Make the rows of one student: the float one first, then each format."""
    model, card = load_model(path)
    x, _ = dataset_of(card, data_dir).test.tensors()
    place = {
        "dataset": card.dataset,
        "student": card.architecture,
        "seed": card.seed,
        "num_parameters": num_parameters(model),
        "eps": card.eps,
        "note": note,
    }
    with torch.inference_mode():
        speed = latencies(lambda size: model(x[:size]))
    rows = [{**place, "format": "float", "bytes": path.stat().st_size, **speed}]
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            out, printed = Path(folder, format), io.StringIO()
            with contextlib.redirect_stdout(printed):
                export_student(
                    path,
                    out,
                    to=format,
                    num_images=1000,
                    num_attacked=attacked,
                    bounds=ANY,
                    data_dir=data_dir,
                    seed=card.seed,
                    as_json=True,
                    display=Display(Console(stderr=True), quiet=True),
                )
            figures = json.loads(printed.getvalue())
            del figures["path"], figures["sha256"]
            pixels = np.ascontiguousarray(x[:64].numpy())
            speed = latencies(answers(read_onnx(out), pixels))
            rows.append({**place, **figures, **speed})
    return rows


def main() -> None:
    """Make the rows of these students anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("of", nargs="+", type=Path, help="a run, or a student's file")
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--note", default="", help="how they were trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in [path for run in options.of for path in students_of(run)]:
        made = measure(
            path, options.data_dir, attacked=options.attacked, note=options.note
        )
        keys = ("dataset", "student", "seed")
        place = [made[0][key] for key in keys]
        kept = [r for r in read_rows(ROWS) if [r.get(k) for k in keys] != place]
        write_rows(ROWS, [*kept, *made])
        for row in made:
            print(row, flush=True)


if __name__ == "__main__":
    main()
