"""details/<node>/*.json: what a run keeps for its page, and what a reader refuses."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sample_details import details

from common.errors import StorageError
from deploy.report.details import MOST_BYTES, Details, read_details, write_details

NAME = "details/camera/student.json"


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A file as it is written, as JSON."""
    write_details(details(), tmp_path, NAME)
    found: dict[str, Any] = json.loads((tmp_path / NAME).read_text())
    return found


def refusal(folder: Path, content: bytes, name: str = NAME) -> str:
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        read_details(folder, name)
    return str(caught.value)


def test_details_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = details()
    write_details(written, tmp_path, NAME)
    assert read_details(tmp_path, NAME) == written


def test_a_file_that_is_gone_is_none(tmp_path: Path) -> None:
    assert read_details(tmp_path, NAME) is None


def large_png() -> str:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (9000).to_bytes(4, "big") * 2
    return base64.b64encode(head + bytes(20)).decode()


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("samples", 0, "x"), "<svg onload=alert(1)>", "PNG file in base64"),
        (("samples", 0, "x_adv"), "aGVsbG8=", "PNG file in base64"),
        (("samples", 0, "delta"), large_png(), "at most 64 pixels a side"),
        (("samples", 0, "clean", "label"), 10, "class 10 of 10"),
        (("samples", 0, "clean", "confidence"), 1.5, "confidence"),
        (("mistakes", 0, "answer"), 999, "class 999 of 10"),
        (("classes", 0, "robust"), 21, "more images are right than there are"),
        (("classes",), [], "classes"),
        (("radii", 0, "accuracy"), 7, "accuracy"),
        (("radii", 8, "eps"), 1e308, "radii are eps in pixel scale"),
        (("classes", 0, "tested"), 10**400, "tested"),
        (("schema",), 2, "schema"),
    ],
)
def test_a_file_of_another_shape_is_refused_in_one_line(
    place: tuple[str | int, ...], value: Any, why: str, tree: Any, tmp_path: Path
) -> None:
    inner = tree
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    message = refusal(tmp_path, json.dumps(tree).encode())
    assert "student.json is damaged" in message and why in message
    assert "\n" not in message and "remove it" in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"eps": 1e999}']
)
def test_what_is_no_such_json_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    message = refusal(tmp_path, content)
    assert "student.json is damaged" in message and "\n" not in message


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(StorageError, match=f"expected {MOST_BYTES} at most"):
        read_details(tmp_path, NAME)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.json", "details/..", ""])
def test_a_name_that_leads_out_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    run = tmp_path / "run"
    (run / "details").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot read") as caught:
        read_details(run, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_an_ordinary_file_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.parent.mkdir(parents=True)
    if kind == "link":
        write_details(details(), tmp_path, "other.json")
        path.symlink_to(tmp_path / "other.json")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        read_details(tmp_path, NAME)


def test_a_later_takts_field_is_passed_over(tree: Any, tmp_path: Path) -> None:
    tree["later"] = tree["samples"][0]["later"] = {"a": 1}
    (tmp_path / NAME).write_text(json.dumps(tree))
    assert isinstance(read_details(tmp_path, NAME), Details)
