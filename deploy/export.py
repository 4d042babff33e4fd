"""`takt export`: a student as an ONNX file that other programs run.

The file gets its name after the gate has measured it on test images. Not here: how it
is made and measured (common.export), what a node exports by itself (edge.distill).
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.durable import make_folder, require_place, write_atomic
from common.export.bounds import Bounds
from common.export.card import format_of
from common.models.foreign import refuse_foreign
from deploy.evaluation.images import stratified_positions
from deploy.evaluation.single import dataset_of
from deploy.runtime.progress import Display
from deploy.runtime.surroundings import require_address_space


def export_student(
    student: Path,
    out: Path,
    *,
    to: str,
    num_images: int,
    num_attacked: int,
    bounds: Bounds,
    data_dir: Path | None,
    seed: int,
    as_json: bool,
    display: Display,
) -> None:
    """Write a student as ONNX, unless it is worse so; print what was measured.

    Args:
        student: safetensors with takt's model card.
        out: the file to write; replaced if it exists.
        to: a format, as `format_of` takes it.
        num_images: test images for clean accuracy; the first of each class.
        num_attacked: of these, attacked.
        bounds: of what may be lost.
        data_dir: where the data set lies; None: embedded or takt's usual place.
        seed: of the attacks.
        as_json: print a JSON object instead of lines.
        display: shows how far it is.

    Raises:
        ConfigError: the format is unknown, the extra `export` is not installed, or
            --data-dir is given to no purpose.
        DataError: the data set is missing, or is not the student's.
        StorageError: the student cannot be read, or the file not be written.
        StudentError: the exported file is worse than the student.
    """
    format = format_of(to)
    require_place(out)
    refuse_foreign(student)  # before torch is imported
    require_address_space()
    from common.data.datasets import Split
    from common.export.encode import CALIBRATION_IMAGES, encode
    from common.export.gate import describe, measure, require_as_good
    from common.export.session import OnnxStudent
    from common.models.files import load_model

    with display, display.step("export") as step:
        model, card = load_model(student)
        dataset = dataset_of(card, data_dir)
        train = dataset.train
        chosen = stratified_positions(train.labels, CALIBRATION_IMAGES)
        calibration = Split(train.images[chosen], train.labels[chosen])
        step.update(stage=f"writing {format}")
        data = encode(
            model,
            card,
            format,
            student_sha256=hashlib.sha256(student.read_bytes()).hexdigest(),
            calibration=calibration.tensors()[0].numpy(),
        )
        exported = OnnxStudent(data)
        positions, num_attacked = _attacked_first(
            dataset.test.labels, num_images, num_attacked
        )
        x, y = dataset.test.tensors()
        figures = measure(
            model,
            exported,
            x[positions],
            y[positions],
            num_attacked=num_attacked,
            eps=card.eps,
            seed=seed,
            on_progress=step,
        )
    require_as_good(figures, to, bounds=bounds)
    make_folder(out.parent)
    write_atomic(out, data)
    if as_json:
        tree = {"path": str(out), "format": to, "bytes": len(data)}
        tree |= {"sha256": exported.sha256, **dataclasses.asdict(figures)}
        print(json.dumps(tree, indent=1))
        return
    print(f"{out}: {to}, {len(data):,} bytes, {card.architecture} of {card.dataset}")
    print(describe(figures))


def _attacked_first(
    labels: NDArray[np.int64], num_images: int, num_attacked: int
) -> tuple[NDArray[np.int64], int]:
    """Choose positions of each class, the attacked ones first; count these."""
    positions = stratified_positions(labels, num_images)
    attacked = stratified_positions(labels[positions], num_attacked)
    rest = sorted({*range(len(positions))} - {*attacked})
    return positions[[*attacked, *rest]], len(attacked)
