"""`takt export`: a student as an ONNX file that other programs run.

The file gets its name after the gate has measured it on test images. Not here: how it
is made and measured (common.export), what a node exports by itself (edge.distill).
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from common.durable import make_folder, write_atomic
from common.export.card import format_of
from common.models.foreign import refuse_foreign
from deploy.evaluation.images import stratified_positions
from deploy.evaluation.single import dataset_of
from deploy.runtime.surroundings import require_address_space


def export_student(
    student: Path,
    out: Path,
    *,
    to: str,
    num_images: int,
    num_attacked: int,
    max_clean_drop: float,
    max_robust_drop: float,
    data_dir: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Write a student as ONNX, unless it is worse so; print what was measured.

    Args:
        student: safetensors with takt's model card.
        out: the file to write; replaced if it exists.
        to: a format, as `format_of` takes it.
        num_images: test images for clean accuracy; the first of each class.
        num_attacked: of these, attacked.
        max_clean_drop: fraction of images that may be lost.
        max_robust_drop: likewise, under attack.
        data_dir: where the data set lies; None: embedded or takt's usual place.
        seed: of the attacks.
        as_json: print a JSON object instead of lines.

    Raises:
        ConfigError: the format is unknown, or the extra `export` is not installed.
        DataError: the data set is missing, or is not the student's.
        StorageError: the student cannot be read, or the file not be written.
        StudentError: the exported file is worse than the student.
    """
    format = format_of(to)
    refuse_foreign(student)  # before torch is imported
    require_address_space()
    from common.data.datasets import Split
    from common.export.encode import CALIBRATION_IMAGES, encode
    from common.export.gate import describe, measure, require_as_good
    from common.export.session import OnnxStudent
    from common.models.files import load_model

    model, card = load_model(student)
    dataset = dataset_of(card, data_dir)
    train = dataset.train
    chosen = stratified_positions(train.labels, CALIBRATION_IMAGES)
    calibration = Split(train.images[chosen], train.labels[chosen])
    data = encode(
        model,
        card,
        format,
        student_sha256=hashlib.sha256(student.read_bytes()).hexdigest(),
        calibration=calibration.tensors()[0].numpy(),
    )
    x, y = dataset.test.tensors()
    positions = stratified_positions(dataset.test.labels, num_images)
    attacked = stratified_positions(dataset.test.labels[positions], num_attacked)
    rest = sorted({*range(len(positions))} - {*attacked})
    positions = positions[[*attacked, *rest]]
    exported = OnnxStudent(data)
    figures = measure(
        model,
        exported,
        x[positions],
        y[positions],
        num_attacked=len(attacked),
        eps=card.eps,
        seed=seed,
    )
    require_as_good(
        figures,
        to,
        max_clean_drop=max_clean_drop,
        max_robust_drop=max_robust_drop,
    )
    make_folder(out.parent)
    write_atomic(out, data)
    if as_json:
        tree = {"path": str(out), "format": to, "bytes": len(data)}
        tree |= {"sha256": exported.sha256, **dataclasses.asdict(figures)}
        print(json.dumps(tree, indent=1))
        return
    print(f"{out}: {to}, {len(data):,} bytes, {card.architecture} of {card.dataset}")
    print(describe(figures))
