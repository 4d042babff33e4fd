"""Taking the student that a node reported out of a folder which the node writes.

A node may be in others' hands: what lies in its folder is a claim. Names come from the
report and the release, no link is followed, the size is bounded, and what is kept has
the digest that was reported. Not here: loading it (common.models.files).
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from common.durable import storage_error
from common.regular_file import open_below
from edge.state import STUDENT, student_folders

MOST_BYTES = 512 << 20  # the largest architecture of the catalogue has 139 MiB
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class NoStudentError(Exception):
    """The folder of a node has not the student that it reported."""


def take_student(
    state_dir: Path, version: int, digest: str, target: Path, *, most: int = MOST_BYTES
) -> None:
    """Copy a node's student to `target`, which appears whole or not at all.

    Args:
        state_dir: the node's folder; its students are in students/, see
            `student_folders`.
        version: of the release.
        digest: of the student's file, as the node reported it.
        target: a file in the run's folder.
        most: bytes that it may have.

    Raises:
        NoStudentError: it is not there, is larger, or has another digest.
        StorageError: `target` cannot be written.
    """
    if not _DIGEST.fullmatch(digest):
        raise NoStudentError("it reports a promoted student without its digest")
    reasons = []
    for folder in student_folders(version, digest):
        try:
            with open_below(state_dir, "students", folder, STUDENT, most=most) as file:
                found = _copied(file, target, digest, most)
        except OSError as e:
            reasons.append(f"{folder}/{STUDENT}: {e.strerror or e}")
            continue
        if found:
            return
        reasons.append(f"{folder}/{STUDENT} has another digest")
    raise NoStudentError(
        f"it reports a promoted student, but {state_dir}/students has none: "
        + "; ".join(reasons)
    )


def _copied(file: BinaryIO, target: Path, digest: str, most: int) -> bool:
    """Copy a file that has a digest, and not one byte more than `most`."""
    part = target.with_name(f".{target.name}.part")
    sha256 = hashlib.sha256()
    left = most  # a file may grow while it is read
    try:
        with part.open("wb") as copy:
            while data := file.read(min(_CHUNK, left)):
                sha256.update(data)
                copy.write(data)
                left -= len(data)
        if sha256.hexdigest() != digest:
            part.unlink()
            return False
        part.replace(target)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise storage_error(e, target) from e
    return True
