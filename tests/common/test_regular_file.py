"""Files that others wrote: ordinary ones alone, and no link below a folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.regular_file import open_below, open_regular


def read_below(root: Path, *names: str, most: int = 100) -> bytes:
    with open_below(root, *names, most=most) as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"key")
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "in" / "file").write_bytes(b"12345")
    return tmp_path / "root"


def test_a_file_below_a_folder_is_read(root: Path) -> None:
    assert read_below(root, "in", "file") == b"12345"


def test_a_link_of_the_readers_own_is_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "in" / "file")
    with open_regular(root / "link") as file:
        assert file.read() == b"12345"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_folder_is_refused_without_waiting(
    root: Path, make: Callable[[Path], None]
) -> None:
    make(root / "odd")
    with pytest.raises(OSError), open_regular(root / "odd"):
        pass
    with pytest.raises(OSError):
        read_below(root, "odd")


def test_a_device_is_refused() -> None:
    said = "a pipe, a socket or a device"
    with pytest.raises(OSError, match=said), open_regular(Path("/dev/zero")):
        pass
    with pytest.raises(OSError, match=said):
        read_below(Path("/dev"), "zero")


def test_a_link_to_a_file_below_a_folder_is_refused(root: Path) -> None:
    (root / "in" / "link").symlink_to(root.parent / "secret")
    with pytest.raises(OSError, match="link"):
        read_below(root, "in", "link")


def test_a_link_to_a_folder_below_a_folder_is_refused(root: Path) -> None:
    (root / "out").symlink_to(root / "in")
    with pytest.raises(OSError):
        read_below(root, "out", "file")


@pytest.mark.parametrize("name", ["..", ".", "", "../secret", "/etc/passwd", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(root: Path, name: str) -> None:
    with pytest.raises(OSError, match="no name of a file"):
        read_below(root, name)
    with pytest.raises(OSError, match="no name of a file"):
        read_below(root, name, "secret")


def test_a_file_larger_than_asked_for_is_refused_with_both_sizes(root: Path) -> None:
    with pytest.raises(OSError, match="5 bytes, expected 4 at most"):
        read_below(root, "in", "file", most=4)
