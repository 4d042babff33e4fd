"""A node's folder of students is the node's: links, sizes and digests in it."""

import hashlib
import os
from pathlib import Path

import pytest

from deploy.simulation.node_students import NoStudentError, take_student

STUDENT = b"weights of a student"
DIGEST = hashlib.sha256(STUDENT).hexdigest()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Make a node's folder, without a student."""
    (tmp_path / "node" / "students" / "3").mkdir(parents=True)
    return tmp_path / "node"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "sensor.safetensors"


def place(node: Path, folder: str = "3") -> Path:
    return node / "students" / folder / "student.safetensors"


def refused(node: Path, target: Path, digest: str = DIGEST, most: int = 100) -> str:
    """Take the student; return why it was refused. Nothing may be left behind."""
    with pytest.raises(NoStudentError) as caught:
        take_student(node, 3, digest, target, most=most)
    assert list(target.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("folder", ["3", f"3-{DIGEST[:8]}"])
def test_the_student_with_the_reported_digest_is_copied(
    node: Path, target: Path, folder: str
) -> None:
    place(node).write_bytes(b"of another channel")
    place(node, folder).parent.mkdir(exist_ok=True)
    place(node, folder).write_bytes(STUDENT)
    take_student(node, 3, DIGEST, target)
    assert target.read_bytes() == STUDENT
    assert list(target.parent.iterdir()) == [target]


def test_a_student_that_is_a_link_to_another_file_is_not_read(
    node: Path, target: Path
) -> None:
    secret = node.parent / "ca.key"
    secret.write_bytes(STUDENT)
    place(node).symlink_to(secret)
    assert "it is a link" in refused(node, target)


@pytest.mark.parametrize("linked", ["students", "students/3"])
def test_a_folder_of_students_that_is_a_link_is_not_read(
    node: Path, target: Path, linked: str
) -> None:
    place(node).write_bytes(STUDENT)
    (node / linked).rename(node.parent / "elsewhere")
    (node / linked).symlink_to(node.parent / "elsewhere")
    refused(node, target)


def test_a_pipe_in_the_place_of_a_student_is_refused_without_waiting(
    node: Path, target: Path
) -> None:
    os.mkfifo(place(node))
    assert "a pipe, a socket or a device" in refused(node, target)


def test_a_student_beyond_the_bound_is_refused_with_both_sizes(
    node: Path, target: Path
) -> None:
    place(node).write_bytes(STUDENT)
    said = refused(node, target, most=len(STUDENT) - 1)
    assert f"it has {len(STUDENT)} bytes, expected {len(STUDENT) - 1} at most" in said


def test_a_student_of_another_digest_than_was_reported_is_refused(
    node: Path, target: Path
) -> None:
    place(node).write_bytes(STUDENT + b".")
    assert "has another digest" in refused(node, target)


@pytest.mark.parametrize("digest", ["", "../../../x", DIGEST.upper(), DIGEST + "0"])
def test_a_report_without_a_digest_names_no_student(
    node: Path, target: Path, digest: str
) -> None:
    place(node).write_bytes(STUDENT)
    assert "without its digest" in refused(node, target, digest)
