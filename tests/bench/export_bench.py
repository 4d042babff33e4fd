"""Exported students against the float ones: bytes, latency, clean and robust accuracy.

    .venv/bin/python tests/bench/export_bench.py CONFIG STUDENT... [--cpu-s 20]

A student of a shipped config's size is trained by `warm_at`, which needs no teacher,
for some CPU-seconds of one thread, and exported by `takt export` in each format with
bounds that refuse nothing, so that a file that the gate would refuse has a row too.
Latency is the median of calls on one thread, in torch for the float student and in
onnxruntime for the files. The rows go to results/export.json; export_table.py writes
the page's table.
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
from rows import Row, read_rows, write_rows

from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset
from common.export.card import FORMATS
from common.export.session import OnnxStudent, read_onnx
from common.models.card import ModelCard
from common.models.files import load_model, save_model
from common.models.zoo import num_parameters
from deploy.export import export_student
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.task import Task

ROWS = Path(__file__).parent / "results" / "export.json"
BATCHES = {1: 400, 64: 100}  # images in a call, and calls


def train(
    config: RunConfig, student: str, data: Dataset, path: Path, cpu_s: float
) -> None:
    """Train a student without a teacher, and save it with its card."""
    recipe = config.students[student].model_copy(
        update={"method": "warm_at", "num_views": 1}
    )
    task = Task(
        train=Images.of(data.train),
        val=Images.of(data.val),
        num_classes=len(data.class_names),
        eps=config.threat.eps,
        seed=config.seed,
        cpu_budget_s=cpu_s,
    )
    x, _ = data.train.tensors()
    card = ModelCard(
        architecture=recipe.model,
        in_channels=x.shape[1],
        image_size=x.shape[2],
        num_classes=len(data.class_names),
        class_names=data.class_names,
        dataset=config.dataset.name,
        limit=config.dataset.limit,
        fingerprint=data.train.fingerprint(),
        eps=config.threat.eps,
        seed=config.seed,
        val_fraction=config.dataset.val_fraction,
    )
    save_model(path, fit_student(recipe, task).model, card)


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
    config: RunConfig, student: str, *, cpu_s: float, attacked: int
) -> list[Row]:
    """Make the rows of one student: the float one first, then each format."""
    data = load_dataset(config.dataset, seed=config.seed)
    x, _ = data.test.tensors()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "student.safetensors")
        train(config, student, data, path, cpu_s)
        model, card = load_model(path)
        place = {
            "dataset": card.dataset,
            "student": card.architecture,
            "num_parameters": num_parameters(model),
            "eps": card.eps,
            "cpu_s": cpu_s,
        }
        with torch.inference_mode():
            speed = latencies(lambda size: model(x[:size]))
        float_row = {**place, "format": "float", "bytes": path.stat().st_size, **speed}
        rows = []
        for format in FORMATS:
            out, printed = Path(folder, format), io.StringIO()
            with contextlib.redirect_stdout(printed):
                export_student(
                    path,
                    out,
                    to=format,
                    num_images=1000,
                    num_attacked=attacked,
                    max_clean_drop=1.0,
                    max_robust_drop=1.0,
                    data_dir=config.dataset.data_dir,
                    seed=config.seed,
                    as_json=True,
                )
            figures = json.loads(printed.getvalue())
            del figures["path"], figures["sha256"]
            pixels = np.ascontiguousarray(x[:64].numpy())
            speed = latencies(answers(read_onnx(out), pixels))
            rows.append({**place, **figures, **speed})
    return [float_row, *rows]


def main() -> None:
    """Make the rows of these students anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--cpu-s", type=float, default=20.0)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    config, _ = load_run_config(options.config, overrides)
    for student in options.students:
        place = (config.dataset.name, config.students[student].model)
        kept = [r for r in read_rows(ROWS) if (r["dataset"], r["student"]) != place]
        made = measure(config, student, cpu_s=options.cpu_s, attacked=options.attacked)
        write_rows(ROWS, [*kept, *made])
        for row in made:
            print(row, flush=True)


if __name__ == "__main__":
    main()
