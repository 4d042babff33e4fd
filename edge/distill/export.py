"""A node's promoted student as an ONNX file beside it.

``python -m edge.distill.export JOB.json`` runs in a process of its own, since the
daemon is free of torch. Calibrated on images that the student trained on, measured on
those that it never did: the release's validation images and the node's own. A node can
afford less than the cloud: at most `_ATTACKED` of them are attacked, of both kinds. Not
here: how the file is made and measured (common.export), predicting (edge.predict).
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.own_images import pixel_digests
from common.durable import write_atomic
from common.errors import DataError, StorageError, TaktError
from common.export.card import Format
from common.export.encode import CALIBRATION_IMAGES, encode
from common.export.gate import describe, measure, require_as_good
from common.export.session import OnnxStudent
from common.models.files import load_model
from common.release import Manifest
from common.text import counted
from edge.distill.batch import Images
from edge.distill.exit_code import exit_code_of
from edge.distill.knowledge import read_manifest
from edge.distill.sources.own import beside, reader
from edge.distill.sources.released import released_images
from edge.jobs.exporting import ExportJob
from edge.jobs.job import read_message
from edge.state import StateDir

_MEASURED, _ATTACKED = 1000, 256  # images, at most
_PIXELS = "export-images.u8"


class GateImages(NamedTuple):
    """The images that a node has for an export."""

    calibration: Tensor  # (N, C, H, W) in [0, 1], trained on
    x: Tensor  # (N, C, H, W) in [0, 1], never trained on
    y: Tensor  # (N,)
    num_own: int  # of the latter


def export_promoted(job: ExportJob, format: Format) -> str:
    """Write the ONNX file of a promoted student, unless that answers worse.

    Returns:
        What was measured, in one line.

    Raises:
        ConfigError: the extra `export` is not installed.
        DataError: as `gate_images` says, or the node's images are missing.
        StorageError: the student or its release is damaged or no longer there, or
            another channel's release lies in its place.
        StudentError: the exported file is worse than the student.
    """
    state, promoted = StateDir(job.state_dir), job.promoted
    model, card = load_model(state.student_file(promoted))
    folder = state.releases / str(promoted.version)
    manifest = read_manifest(folder)
    found, expected = (
        f"{each.channel} {each.version}" for each in (manifest, promoted)
    )
    if found != expected:  # the node follows another channel since
        raise StorageError(
            f"{folder} holds release {found}, expected {expected}, which the student "
            "is of: another one cannot measure its export; wait for the next student"
        )
    images = gate_images(job, manifest, folder)
    data = encode(
        model,
        card,
        format,
        student_sha256=promoted.weights_sha256,
        calibration=images.calibration.numpy(),
    )
    figures = measure(
        model,
        OnnxStudent(data),
        images.x,
        images.y,
        num_attacked=min(_ATTACKED, len(images.y)),
        eps=manifest.eps,
        seed=job.seed,
    )
    require_as_good(figures, format)
    write_atomic(state.exported_file(promoted, format), data)
    own = counted(images.num_own, "image")
    return f"{describe(figures)}; {own} of them the node's own"


def gate_images(job: ExportJob, manifest: Manifest, release_dir: Path) -> GateImages:
    """Take the images that a node has: the release's, and its own.

    Those that measure the file are shuffled, so that both kinds are among the first.

    Raises:
        DataError: there are none that the student never trained on.
        TrustError: they are not the images of the release.
    """
    released = released_images(job.dataset, manifest, release_dir)
    train, val, num_own = released.train, released.val, 0
    if job.own is not None and job.own.images != 0:
        digests = pixel_digests(val.x.numpy())
        read = reader(job.own, job.dataset, manifest, never_trained_on=digests)
        both = beside(train, read, StateDir(job.state_dir).work / _PIXELS)
        train, own = both.train, both.val
        val = Images(torch.cat([val.x, own.x]), torch.cat([val.y, own.y]))
        num_own = len(own.y)
    if not len(val.y):
        raise DataError(
            "no image measures the exported file: the release ships no validation "
            "images, and none of the node's own are set aside; label some, or publish "
            "with validation images"
        )
    spread = torch.linspace(0, len(train.y) - 1, min(CALIBRATION_IMAGES, len(train.y)))
    order = torch.randperm(len(val.y), generator=torch.Generator().manual_seed(0))
    chosen = order[:_MEASURED]
    return GateImages(
        train.batch(spread.long())[0],
        *val.batch(chosen),
        num_own=int((chosen >= len(val.y) - num_own).sum()),
    )


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
