"""The job of a distillation's child, and the work folder that belongs to it.

Not here: starting the child (edge/jobs/runner.py), a job's fields (edge/jobs/job.py).
"""

import shutil
from pathlib import Path

from pydantic import ValidationError

from common.catalog import needs_live_teacher, reads_soft_labels
from common.config import DatasetConfig
from common.durable import fsync_folder, storing, write_atomic
from common.errors import ConfigError
from common.release import Manifest, recipe_of
from edge.config import EdgeConfig
from edge.daemon.new_images import Snapshot
from edge.jobs.job import DistilJob, LiveLink
from edge.limits import num_threads
from edge.releases.sync import Release
from edge.state import Promoted, StateDir

_MARKER = "for"  # in a work folder: which release and job it belongs to


def make_job(
    config: EdgeConfig,
    manifest: Manifest,
    *,
    folder: Path,
    work: Path,
    serving: Path | None = None,
) -> DistilJob:
    """Make the child's job for a pulled release.

    Args:
        config: of the node.
        manifest: of the release.
        folder: where it was pulled to.
        work: the job's folder.
        serving: the student to measure beside the new one; None: no student.

    Raises:
        ConfigError: the release is of a data set that this takt does not know, or
            has no such student.
    """
    try:
        dataset = DatasetConfig.model_validate(
            {"name": manifest.dataset, "data_dir": config.data_dir}
        )
    except ValidationError as e:
        raise ConfigError(
            f"the release is of data set '{manifest.dataset}', unknown to this takt; "
            "update takt on this node"
        ) from e
    return DistilJob(
        release_dir=folder,
        student=config.student,
        dataset=dataset,
        work_dir=work,
        seed=config.seed,
        threads=num_threads(config.profile),
        cpu_budget_s=config.cpu_budget_s,
        live=_live_link(config, manifest),
        own=config.data,
        max_forgetting=config.max_forgetting,
        serving=serving,
        answers=StateDir(config.state_dir).answers if config.data else None,
    )


def _live_link(config: EdgeConfig, manifest: Manifest) -> LiveLink | None:
    """Give the child access to the live teacher, if it may ask it.

    Only for a method that asks it, or own images that are shared with it and a method
    that learns from its answers. Without this no image leaves the device, whatever the
    child does.
    """
    shares = config.data is not None and config.data.share_images
    method = recipe_of(manifest, config.student).method
    if not needs_live_teacher(method) and not (shares and reads_soft_labels(method)):
        return None
    return LiveLink(
        gateway=config.gateway,
        identity_dir=StateDir(config.state_dir).identity,
        profile=config.profile,
        deadline_s=config.deadline_s,
        stall_s=config.stall_s,
        proxy=config.proxy,
    )


def serving_student(config: EdgeConfig, serving: Promoted | None) -> Path | None:
    """Name the file of the student that serves, where it is to be measured anew.

    Own images change, so that both students are measured on those of now; where a node
    has none any more, the figures that it has are of images that are gone.
    """
    if serving is None:
        return None
    was_of_own = serving.release_robust not in ((), serving.robust)
    if config.data is None and not was_of_own:
        return None
    return StateDir(config.state_dir).student_file(serving)


def prepare_work_dir(release: Release, job: DistilJob, images: Snapshot) -> None:
    """Mark the work folder as this release's and job's; empty another one's.

    Args:
        release: that is distilled.
        job: of the child.
        images: the node's own; with others a distillation begins anew.

    Raises:
        StorageError: the disk is full or not writable.
    """
    # Not `serving`: after a kill between the two steps of a promotion it is the very
    # student that lies here, finished.
    owner = f"{release.manifest_sha256} {job.model_dump_json(exclude={'serving'})}"
    if len(images.files):
        owner += f" {images.files_sha256}"
    marker = job.work_dir / _MARKER
    with storing(job.work_dir):
        if not marker.exists() or marker.read_bytes() != owner.encode():
            # First of all it is nobody's: a kill leaves half of what is removed.
            if marker.exists():
                marker.unlink()
                fsync_folder(job.work_dir)
            shutil.rmtree(job.work_dir, ignore_errors=True)
            job.work_dir.mkdir()
            write_atomic(marker, owner.encode())
