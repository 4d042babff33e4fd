"""Whether a new student takes over, and the durable steps by which it does.

A student is promoted unless it is collapsed, or less robust (by the same attack on
the same data) than the one that serves. Its folder is complete before current.json
names it. Not here: the measurements (the child makes them, on the node's validation
images) and current.json itself (edge/state.py).
"""

import contextlib
import shutil
from pathlib import Path

from common import faults
from common.durable import fsync_folder, storing, write_atomic
from common.errors import StorageError
from common.release import Manifest
from edge.jobs.job import RESULT, STUDENT, DistilResult
from edge.state import Promoted, StateDir, sha256_of

CARD = "promoted.json"


def robust_accuracy(result: DistilResult | Promoted) -> float:
    """Take the lowest of the measured robust accuracies; 0 for none."""
    return min((each.accuracy for each in result.robust), default=0.0)


def _attacks(result: DistilResult | Promoted) -> set[tuple[str, str, str]]:
    return {(each.attack, each.version, each.norm) for each in result.robust}


def decide(
    result: DistilResult, manifest: Manifest, serving: Promoted | None
) -> tuple[str, str]:
    """Decide whether a new student takes over.

    Returns:
        The outcome for report and current.json ("promoted", "kept" when the old
        student is better, "refused") and its reason, in one line.
    """
    if result.collapsed:
        return "refused", (
            "the student answers one class for (nearly) every image; it is not "
            "promoted: see learning_rate and eps_warmup_epochs of its recipe"
        )
    new = robust_accuracy(result)
    if serving is None:
        return "promoted", f"the first student, {new:.1%} robust on validation images"
    same = (serving.fingerprint, serving.eps) == (manifest.fingerprint, manifest.eps)
    if not same:
        return "promoted", "the release is of other data or another threat"
    if _attacks(result) != _attacks(serving):
        return "promoted", "the student that serves was measured by another attack"
    old = robust_accuracy(serving)
    if new < old:
        return "kept", (
            f"{new:.1%} robust on validation images, the student of version "
            f"{serving.version} has {old:.1%} and stays"
        )
    return "promoted", f"{new:.1%} robust on validation images, before {old:.1%}"


def store_student(
    state: StateDir, work: Path, result: DistilResult, manifest: Manifest
) -> Promoted:
    """Copy a distilled student to students/, whole or not at all.

    Args:
        state: of the node.
        work: the distillation's folder.
        result: as the child reported it.
        manifest: of the release that it came from.

    Raises:
        StorageError: the disk is full, or the student's digest is not the
            result's; students/ is unchanged.
    """
    source = work / STUDENT
    name = str(manifest.version)
    with storing(state.students / name):
        if sha256_of(source) != result.weights_sha256:
            raise StorageError(
                f"{source} is damaged: its digest is not the result's; remove {work}"
            )
        existing = state.students / name / STUDENT
        if existing.exists() and sha256_of(existing) != result.weights_sha256:
            name = f"{name}-{result.weights_sha256[:8]}"  # of another channel
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
        )
        place = state.students / name
        if place.exists():
            return promoted
        part = state.students / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        write_atomic(part / STUDENT, source.read_bytes())
        write_atomic(part / RESULT, (work / RESULT).read_bytes())
        write_atomic(part / CARD, promoted.model_dump_json(indent=1).encode())
        faults.point("edge.student.before_rename")
        part.replace(place)
        fsync_folder(state.students)
        faults.point("edge.student.after_rename")
    return promoted


def prune_students(state: StateDir, serving: Promoted) -> None:
    """Remove all students but the serving one and the one before it.

    Also removes what a killed `store_student` left. What fails is tried next time.
    """
    with contextlib.suppress(OSError):
        others = [f for f in state.students.iterdir() if f.name != serving.folder]
        whole = [folder for folder in others if not folder.name.startswith(".")]
        whole.sort(key=lambda folder: folder.stat().st_mtime)
        for folder in {*others} - {*whole[-1:]}:
            shutil.rmtree(folder, ignore_errors=True)
