"""Whether a new student takes over, and the durable steps by which it does.

A student is promoted unless it is collapsed, less robust (by the same attack on the
same images) than the one that serves, or has forgotten too much of what the release's
validation images show and the node's own do not. What is forgotten counts from the best
student of that release so far: many trainings may lose no more than one. A student's
folder is complete before current.json names it. Not here: the measurements (the child
makes them, of both students where the node has images of its own) and current.json
itself (edge/state.py).
"""

import contextlib
import shutil
from pathlib import Path
from typing import NamedTuple

from common import faults
from common.durable import fsync_folder, storing, write_atomic
from common.errors import StorageError
from common.release import Manifest
from edge.jobs.job import RESULT, DistilResult, has_forgotten
from edge.state import (
    PROMOTED,
    STUDENT,
    Promoted,
    StateDir,
    sha256_of,
    student_folders,
)


def robust_accuracy(result: DistilResult | Promoted) -> float:
    """Take the lowest of the measured robust accuracies; 0 for none."""
    return min((each.accuracy for each in result.robust), default=0.0)


def release_robust_accuracy(result: DistilResult | Promoted) -> float | None:
    """Take the same on the release's images; None: the node has no others."""
    if not result.release_robust or result.release_robust == result.robust:
        return None
    return _on_release(result)


def _attacks(result: DistilResult | Promoted) -> set[tuple[str, str, str]]:
    return {(each.attack, each.version, each.norm) for each in result.robust}


class _Figures(NamedTuple):
    """A student's robust accuracies on the images that a node goes by."""

    main: float  # on the node's own validation images; without any, the release's
    release: float | None  # on the release's, where the first are the node's own


def decide(
    result: DistilResult,
    manifest: Manifest,
    serving: Promoted | None,
    *,
    max_forgetting: float = 0.02,
) -> tuple[str, str]:
    """Decide whether a new student takes over.

    Args:
        result: of the new student.
        manifest: of its release.
        serving: the student that serves; None: there is none yet.
        max_forgetting: robust accuracy that may be lost on the release's images, by
            all trainings for one release together.

    Returns:
        The outcome for report and current.json ("promoted", "kept" when the old
        student is better, "refused") and its reason, in one line.
    """
    if result.collapsed:
        return "refused", (
            "the student answers one class for (nearly) every image; it is not "
            "promoted: see learning_rate and eps_warmup_epochs of its recipe"
        )
    new = _figures(result)
    what = ""
    if "as_shipped" in result.flags:
        what = "the release's starting weights, which training did not improve: "
    if serving is None:
        return "promoted", f"{what or 'the first student, '}{_described(new)}"
    old = _figures_of_serving(result, serving)
    if serving.eps != manifest.eps or (
        result.serving is None and serving.fingerprint != manifest.fingerprint
    ):
        return "promoted", f"{what}the release is of other data or another threat"
    if result.serving is None and _attacks(result) != _attacks(serving):
        return "promoted", (
            f"{what}the student that serves was measured by another attack"
        )
    stays = f"the student of version {serving.version}"
    if new.main < old.main:
        return "kept", (f"{what}{_described(new)}, {stays} has {_both(old)} and stays")
    best = _release_best(old.release, manifest, serving)
    if has_forgotten(best, new.release, max_forgetting):
        earlier = "" if best == old.release else f"; this release's best had {best:.1%}"
        return "kept", (
            f"{what}forgets what the release's images show: {_described(new)}, {stays} "
            f"has {_both(old)} and stays; max_forgetting is {max_forgetting:.1%}"
            f"{earlier}"
        )
    return "promoted", f"{what}{_described(new)}, before {_both(old)}"


def _figures(result: DistilResult | Promoted) -> _Figures:
    """Take a student's figures; the release's own apart from the node's only."""
    return _Figures(robust_accuracy(result), release_robust_accuracy(result))


def _on_release(result: DistilResult | Promoted) -> float | None:
    return min((each.accuracy for each in result.release_robust), default=None)


def _figures_of_serving(result: DistilResult, serving: Promoted) -> _Figures:
    """Take those of the student that serves: on the images of now, if measured."""
    now = result.serving
    if now is None:
        return _figures(serving)
    if now.own_robust is None:
        return _Figures(now.release_robust or 0.0, None)
    return _Figures(now.own_robust, now.release_robust)


def _release_best(
    now: float | None, manifest: Manifest, serving: Promoted | None
) -> float | None:
    """Return the most robust that a student was on the release's validation images.

    Args:
        now: what one has of it by the newest measurement.
        manifest: of the release.
        serving: knows of itself and of earlier ones, if it is of that release.
    """
    if serving is None or not _is_of(serving, manifest):
        return now
    known = (now, serving.release_best, _on_release(serving))
    return max((each for each in known if each is not None), default=None)


def _is_of(serving: Promoted, manifest: Manifest) -> bool:
    release = (manifest.channel, manifest.version, manifest.fingerprint)
    return (serving.channel, serving.version, serving.fingerprint) == release


def _described(figures: _Figures) -> str:
    if figures.release is None:
        return f"{figures.main:.1%} robust on validation images"
    return (
        f"{figures.main:.1%} robust on own validation images and "
        f"{figures.release:.1%} on the release's"
    )


def _both(figures: _Figures) -> str:
    if figures.release is None:
        return f"{figures.main:.1%}"
    return f"{figures.main:.1%} and {figures.release:.1%}"


def store_student(
    state: StateDir,
    work: Path,
    result: DistilResult,
    manifest: Manifest,
    serving: Promoted | None = None,
) -> Promoted:
    """Copy a distilled student to students/, whole or not at all.

    Args:
        state: of the node.
        work: the distillation's folder.
        result: as the child reported it.
        manifest: of the release that it came from.
        serving: the student that it replaces; None: there is none yet.

    Raises:
        StorageError: the disk is full, or the student's digest is not the
            result's; students/ is unchanged.
    """
    source = work / STUDENT
    name, other = student_folders(manifest.version, result.weights_sha256)
    with storing(state.students / name):
        if sha256_of(source) != result.weights_sha256:
            raise StorageError(
                f"{source} is damaged: its digest is not the result's; remove {work}"
            )
        existing = state.students / name / STUDENT
        if existing.exists() and sha256_of(existing) != result.weights_sha256:
            name = other  # of another channel
        promoted = Promoted(
            channel=manifest.channel,
            version=manifest.version,
            student=result.student,
            folder=name,
            weights_sha256=result.weights_sha256,
            dataset=manifest.dataset,
            fingerprint=manifest.fingerprint,
            eps=manifest.eps,
            clean_accuracy=result.clean_accuracy,
            robust=result.robust,
            release_robust=result.release_robust,
            release_best=_release_best(_on_release(result), manifest, serving),
        )
        if state.is_intact(promoted):
            return promoted
        place = state.students / name
        if place.exists():  # what a kill has left of it, or it is damaged
            _remove(place)
        part = state.students / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        write_atomic(part / STUDENT, source.read_bytes())
        write_atomic(part / RESULT, (work / RESULT).read_bytes())
        write_atomic(part / PROMOTED, promoted.model_dump_json(indent=1).encode())
        faults.point("edge.student.before_rename")
        part.replace(place)
        fsync_folder(state.students)
        faults.point("edge.student.after_rename")
    return promoted


def prune_students(state: StateDir, serving: Promoted) -> None:
    """Remove all students but the serving one and the one before it.

    Also removes what a killed `store_student` or a killed removal left; neither is
    taken for the student before. What fails is tried next time.
    """
    whole = [p.folder for p in state.whole_students() if p.folder != serving.folder]
    keep = {serving.folder, *whole[-1:]}
    with contextlib.suppress(OSError):
        for folder in [f for f in state.students.iterdir() if f.name not in keep]:
            with contextlib.suppress(OSError):
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a student's folder; from the first step on it is no student's.

    Raises:
        OSError: it cannot be renamed.
    """
    if not folder.name.startswith("."):
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder = folder.replace(gone)
        fsync_folder(gone.parent)
    shutil.rmtree(folder, ignore_errors=True)
