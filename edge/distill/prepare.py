"""From a job to a training's task: the images of both sources, and what is known.

The release's images, the node's own, or both; the teacher's answers about the own ones
where these are shared; the release's starting weights. Not here: how each is read
(sources/), the training (fitting/), measuring and writing the student (run.py).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from common.catalog import contents_for, needs_live_teacher, reads_soft_labels
from common.config import OwnImagesConfig, StudentConfig
from common.data.own_images import OwnImages, pixel_digests
from common.data.views import Views
from common.errors import ConfigError, DataError
from common.release import Manifest, recipe_of
from common.robustness.evaluate import predict
from edge.distill.batch import Images
from edge.distill.knowledge import Knowledge, read_knowledge
from edge.distill.methods.losses import method
from edge.distill.sources.joined import OwnKnowledge, joined
from edge.distill.sources.own import BothImages, beside, fingerprint, reader
from edge.distill.sources.released import (
    ReleasedImages,
    released_images,
    shipped_student,
)
from edge.distill.task import Task
from edge.jobs.job import DistilJob

if TYPE_CHECKING:
    from edge.distill.sources.taught import Taught

_WATCHED = 64  # validation images of each source that are measured at milestones
_FEW = 10  # labelled images: with less, nothing is said of wrong labels
_TEACHERLESS = "warm_at"  # takt's own training, without soft labels
_PIXELS = "images.u8"


@dataclass(frozen=True)
class Prepared:
    """All that a distillation needs, and what is to be said of it."""

    recipe: StudentConfig
    task: Task
    own_val: Images  # empty: no own images are set aside
    release_val: Images
    shipped: nn.Module | None  # the student of the starting weights
    num_own: int  # images of the node's own that are trained on
    num_labelled: int  # of these
    num_bytes: int  # exchanged with the gateway about them
    notes: tuple[str, ...]
    digest: str  # of all that a checkpoint depends on


def prepare(
    job: DistilJob, manifest: Manifest, *, should_stop: Callable[[], bool]
) -> Prepared:
    """Read and ask for everything.

    Raises:
        TrustError: the release is damaged, or is not of this node's images.
        DataError: images are missing or damaged, or not of the release's kind.
        ConfigError: the release has no such student, or own images may not be shared
            that its method shares.
        TaktError: as `ask_teacher` says.
    """
    recipe = _recipe(job, manifest)
    released = released_images(job.dataset, manifest, job.release_dir)
    knowledge = read_knowledge(manifest, job.release_dir, recipe)
    shipped = shipped_student(manifest, job.student, recipe, job.release_dir)
    if job.without == "release":
        shipped, knowledge = None, Knowledge(temperature=manifest.temperature)
        released = ReleasedImages(_none_of(released.train), released.val)
    num_released = len(released.train.y)
    task = Task.of_release(
        manifest,
        train=released.train,
        val=released.val,
        knowledge=knowledge,
        seed=job.seed,
    )
    task = replace(
        task,
        num_released=num_released,
        batch_size=job.batch_size,
        cpu_budget_s=job.cpu_budget_s,
        start=None if shipped is None else dict(shipped.state_dict()),
    )
    if not _has_images(job.own):
        if not num_released:
            raise ConfigError("a training without the release needs images of its own")
        _check_val(released.val)
        return Prepared(
            recipe=recipe,
            task=task,
            own_val=_none_of(released.train),
            release_val=released.val,
            shipped=shipped,
            num_own=0,
            num_labelled=0,
            num_bytes=0,
            notes=(),
            digest=_digest(job, manifest, None),
        )
    assert job.own is not None
    path = job.work_dir / _PIXELS
    read = reader(
        job.own,
        job.dataset,
        manifest,
        never_trained_on=pixel_digests(released.val.x.numpy()),
    )
    both = beside(released.train, read, path)
    own = Images(both.train.x[num_released:], both.train.y[num_released:])
    views = _own_views(recipe, manifest, own, job.seed)
    taught = _ask(job, recipe, manifest, own, views, should_stop)
    known = OwnKnowledge(len(own.y), views, taught.logits if taught else None)
    num_own, num_labelled = _num_used(recipe, both.own, taught)
    if not len(both.val.y):
        _check_val(released.val)
    return Prepared(
        recipe=recipe,
        task=replace(
            task,
            train=both.train,
            val=_watched(both, released.val, alone=job.without == "release"),
            knowledge=joined(knowledge, num_released, known),
        ),
        own_val=both.val,
        release_val=released.val,
        shipped=shipped,
        num_own=num_own,
        num_labelled=num_labelled,
        num_bytes=taught.num_bytes if taught else 0,
        notes=(
            *both.own.notes,
            *(taught.notes if taught else ()),
            *_left_out(recipe, len(own.y) - num_own, taught),
            *_wrong_labels(own, taught, shipped),
        ),
        digest=_digest(job, manifest, both.own),
    )


def _recipe(job: DistilJob, manifest: Manifest) -> StudentConfig:
    """Take the student's recipe; without a teacher, with a method that needs none."""
    recipe = recipe_of(manifest, job.student)
    asks = needs_live_teacher(recipe.method)
    if job.without and (asks or contents_for(recipe.method, recipe.boundary_weight)):
        return recipe.model_copy(update={"method": _TEACHERLESS})
    if asks and _has_images(job.own) and not (job.own and job.own.share_images):
        raise ConfigError(
            f"method {recipe.method} sends the images that it trains on to the "
            "gateway's teacher, and this node's own are not to be shared; set "
            "share_images in [data] of edge.toml, or choose a student of another "
            "method"
        )
    return recipe


def _has_images(own: OwnImagesConfig | None) -> bool:
    return own is not None and own.images != 0


def _none_of(images: Images) -> Images:
    return Images(images.x[:0], images.y[:0])


def _check_val(val: Images) -> None:
    if not len(val.y):
        raise DataError(
            "no image measures the student: the release ships no validation images, "
            "and no class has 5 own ones with labels; label some, or publish with "
            "validation images"
        )


def _own_views(
    recipe: StudentConfig, manifest: Manifest, own: Images, seed: int
) -> Views | None:
    """Draw the views of own images, each by its pixels.

    When others are added, an image keeps its views, and their answers stay good.
    """
    num_views = recipe.own_views or recipe.num_views
    if num_views == 1:
        return None
    digests = pixel_digests(own.x.numpy())
    return Views.draw(
        len(digests),
        num_views,
        shift=manifest.shift,
        flip=manifest.flip,
        seed=seed,
        keys=np.array([int.from_bytes(d[:8], "little") for d in digests], np.uint64),
    )


def _ask(
    job: DistilJob,
    recipe: StudentConfig,
    manifest: Manifest,
    own: Images,
    views: Views | None,
    should_stop: Callable[[], bool],
) -> "Taught | None":
    """Ask the teacher about the node's own images, where it may be and helps."""
    if job.own is None or not job.own.share_images or job.without:
        return None
    if not reads_soft_labels(recipe.method):
        return None  # no image leaves the device for nothing
    if job.live is None or job.answers is None:
        raise ConfigError(
            "own images are to be shared with the teacher (share_images), but this "
            "job has no gateway to ask"
        )
    from edge.distill.sources.taught import ask_teacher  # and with it gRPC

    return ask_teacher(
        own,
        views,
        manifest,
        link=job.live,
        answers=job.answers,
        should_stop=should_stop,
    )


def _watched(both: BothImages, release_val: Images, *, alone: bool) -> Images:
    """Choose what is measured at milestones: some images of each kind set aside.

    Args:
        both: gives the own ones; their order is that of the folders.
        release_val: the release's.
        alone: own images only; labelled ones that are trained on, if none are set
            aside.
    """
    generator = torch.Generator().manual_seed(0)

    def some(images: Images, among: Tensor) -> Images:
        order = torch.randperm(len(among), generator=generator)
        chosen = among[order[:_WATCHED]]
        return Images(images.x[chosen], images.y[chosen])

    own = some(both.val, torch.arange(len(both.val.y)))
    if not alone:
        parts = (own, some(release_val, torch.arange(len(release_val.y))))
        return Images(
            *(torch.cat(part) for part in zip(*map(_pair, parts), strict=True))
        )
    if len(own.y):
        return own
    return some(both.train, (both.train.y >= 0).nonzero()[:, 0])


def _pair(images: Images) -> tuple[Tensor, Tensor]:
    return images.x, images.y


def _num_used(
    recipe: StudentConfig, own: OwnImages, taught: "Taught | None"
) -> tuple[int, int]:
    """Count the own images that a method can train on, and of these the labelled."""
    needs = method(recipe.method).needs
    if "soft_labels" in needs and taught is None:
        return 0, 0
    if "labels" in needs:
        return own.num_labelled, own.num_labelled
    return len(own.train), own.num_labelled


def _left_out(
    recipe: StudentConfig, count: int, taught: "Taught | None"
) -> tuple[str, ...]:
    """Say so where own images are of no use to a method."""
    if not count:
        return ()
    if "soft_labels" in method(recipe.method).needs and taught is None:
        return (
            f"{count} own images are left out: method {recipe.method} needs the "
            "teacher's answers about them; set share_images in [data] of edge.toml, or "
            "choose a student of method takt",
        )
    return (
        f"{count} own images without a label are left out: method "
        f"{recipe.method} needs labels",
    )


def _wrong_labels(
    own: Images, taught: "Taught | None", shipped: nn.Module | None
) -> tuple[str, ...]:
    """Say so where most labels are not what the teacher, or its student, sees."""
    rows = (own.y >= 0).nonzero()[:, 0]
    if len(rows) < _FEW or (taught is None and shipped is None):
        return ()
    if taught is not None:
        who, classes = "the teacher", taught.classes[rows]
    else:
        assert shipped is not None
        rows = rows[:: max(1, len(rows) // 1000)]
        who, classes = "the release's student", predict(shipped, own.x[rows])
    wrong = int((classes != own.y[rows]).sum())
    if 2 * wrong <= len(rows):
        return ()
    return (
        f"the labels of {wrong} of {len(rows)} own images disagree with {who}: are "
        "they in the right class folders?",
    )


def _digest(job: DistilJob, manifest: Manifest, own: OwnImages | None) -> str:
    """Digest all that a checkpoint depends on; a different job starts anew."""
    parts = [
        manifest.model_dump_json(),
        job.student,
        str(job.seed),
        str(job.batch_size),
        str(job.cpu_budget_s),
    ]
    if job.without:
        parts.append(job.without)
    if own is not None and job.own is not None:
        parts += [fingerprint(own), f"shared: {job.own.share_images}"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
