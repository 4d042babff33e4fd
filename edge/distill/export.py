"""A node's promoted student as an ONNX file beside it.

``python -m edge.distill.export JOB.json`` runs in a process of its own, since the
daemon is free of torch. Calibrated on images of the release that the student trained
on, measured on the release's validation images. What a node can afford is less than
the cloud: `_ATTACKED` of those are attacked. Not here: how the file is made and
measured (common.export), predicting (edge.predict).
"""

import sys
from pathlib import Path

import torch

from common.durable import write_atomic
from common.errors import DataError, TaktError
from common.export.card import Format
from common.export.encode import CALIBRATION_IMAGES, encode
from common.export.gate import describe, measure, require_as_good
from common.export.session import OnnxStudent
from common.models.files import load_model
from edge.distill.exit_code import exit_code_of
from edge.distill.knowledge import read_manifest
from edge.distill.sources.released import released_images
from edge.jobs.exporting import ExportJob
from edge.jobs.job import read_message
from edge.state import StateDir

_MEASURED, _ATTACKED = 1000, 64


def export_promoted(job: ExportJob, format: Format) -> str:
    """Write the ONNX file of a promoted student, unless that answers worse.

    Returns:
        What was measured, in one line.

    Raises:
        ConfigError: the extra `export` is not installed.
        DataError: the release ships no validation images, or the node's are missing.
        StorageError: the student or its release is damaged or no longer there.
        StudentError: the exported file is worse than the student.
    """
    state, promoted = StateDir(job.state_dir), job.promoted
    model, card = load_model(state.student_file(promoted))
    folder = state.releases / str(promoted.version)
    manifest = read_manifest(folder)
    released = released_images(job.dataset, manifest, folder)
    if not len(released.val.y):
        raise DataError(
            "the release ships no validation images, so that nothing measures the "
            "exported file; publish with some"
        )
    num_train = min(CALIBRATION_IMAGES, len(released.train.y))
    calibration, _ = released.train.batch(torch.arange(num_train))
    data = encode(
        model,
        card,
        format,
        student_sha256=promoted.weights_sha256,
        calibration=calibration.numpy(),
    )
    x, y = released.val.batch(torch.arange(min(_MEASURED, len(released.val.y))))
    figures = measure(
        model,
        OnnxStudent(data),
        x,
        y,
        num_attacked=min(_ATTACKED, len(y)),
        eps=manifest.eps,
        seed=job.seed,
    )
    require_as_good(figures, format)
    write_atomic(state.exported_file(promoted, format), data)
    return describe(figures)


def main(argv: list[str]) -> int:
    """Run one job; the exit code says how it ended, stderr why, in one line."""

    def run() -> None:
        if len(argv) != 1:
            raise TaktError("usage: python -m edge.distill.export JOB.json")
        job = read_message(Path(argv[0]), ExportJob)
        torch.set_num_threads(job.threads)
        for format in job.formats:
            print(f"{format}: {export_promoted(job, format)}", flush=True)

    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
