"""Folders of images as file systems, containers and other machines leave them."""

import os
import shutil
import socket
from pathlib import Path
from unicodedata import normalize

import pytest
from class_folders import read_folder, write_tree

from common.config import RunConfig
from common.config.toml_file import parse_config
from common.errors import ConfigError, DataError
from deploy.runtime.settings import read_shipped

CLASSES = {"cat": 20, "dog": 20}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        write_tree(tmp_path / "pets" / part, CLASSES)
    return tmp_path / "pets"


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "\n" not in message and "Errno" not in message
    return message


# https://github.com/sihyun-yu/digan/issues/8
@pytest.mark.parametrize(("kind", "suffix"), [("zip", ".zip"), ("gztar", ".tar.gz")])
def test_an_archive_in_the_place_of_the_folder_is_to_be_unpacked(
    root: Path, kind: str, suffix: str
) -> None:
    archive = shutil.make_archive(str(root), kind, root)
    assert archive.endswith(suffix)
    assert refusal(Path(archive)) == (
        f"{archive} is an archive; unpack it and give the folder that it becomes"
    )
    shutil.rmtree(root)
    assert refusal(root) == f"{root} is not there, but {archive} is; unpack it"


def test_train_as_an_archive_is_named(root: Path) -> None:
    archive = shutil.make_archive(str(root / "train"), "zip", root / "train")
    shutil.rmtree(root / "train")
    assert refusal(root) == (
        f"{root / 'train'} is not there, but {archive} is; unpack it"
    )


def test_an_image_in_the_place_of_the_folder_is_named(root: Path) -> None:
    image = root / "train" / "cat" / "0.png"
    assert refusal(image).startswith(f"{image} is a file; give a folder with images")


# https://github.com/KatherLab/MediSwarm/issues/481
@pytest.mark.parametrize(
    "place", ["train/fox", "test/fox", "train/cat/x.png", "train", "test"]
)
def test_a_link_that_leads_nowhere_is_refused_where_it_would_hide_images(
    root: Path, place: str
) -> None:
    if place in ("train", "test"):
        shutil.rmtree(root / place)
    (root / place).symlink_to("/not-mounted/fox")
    message = refusal(root)
    assert message.startswith(f"{root / place} is a link to /not-mounted/fox, which")
    assert "into the container" in message


def test_a_link_to_itself_leads_nowhere(root: Path) -> None:
    (root / "train" / "fox").symlink_to("fox")
    assert "fox is a link to fox, which is not there" in refusal(root)


def test_train_and_test_may_have_class_names_of_different_unicode_forms(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {normalize("NFC", "caf\u00e9"): 20, "tea": 20})
    write_tree(tmp_path / "test", {normalize("NFD", "caf\u00e9"): 20, "tea": 20})
    assert read_folder(tmp_path).test.labels.tolist().count(0) == 20


def test_a_link_that_leads_to_images_is_a_class_like_others(
    root: Path, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        write_tree(tmp_path / "elsewhere" / part, {"fox": 20})
        (root / part / "fox").symlink_to(tmp_path / "elsewhere" / part / "fox")
    assert read_folder(root).class_names == ("cat", "dog", "fox")


def test_a_link_back_up_the_tree_ends(root: Path) -> None:
    (root / "train" / "cat" / "again").symlink_to("..")
    assert len(read_folder(root).test) == 40


def test_what_systems_put_beside_images_does_not_count(root: Path) -> None:
    plain = read_folder(root)
    for name in ("__MACOSX/cat", "@eaDir/0.png", "lost+found", ".ipynb_checkpoints"):
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / "cat" / name).mkdir(parents=True)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    again = read_folder(root)
    assert again.train.fingerprint() == plain.train.fingerprint()
    assert again.notes == ()


def test_a_pipe_or_socket_named_as_an_image_is_passed_over_and_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "train" / "cat" / "pipe.png")  # to open it would wait for ever
    monkeypatch.chdir(root / "train" / "cat")  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        (note,) = read_folder(root).notes
    assert "2 .png in cat/" in note


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"<html>404</html>", "its content is no image of a known format"),
    ],
)
def test_a_file_that_is_no_image_is_named_in_our_words(
    root: Path, content: bytes, reason: str
) -> None:
    path = root / "train" / "cat" / "x.png"
    path.write_bytes(content)
    assert refusal(root) == f"cannot read image {path}: {reason}; replace or remove it"


@pytest.mark.parametrize("name", ["c\nat", "c\x1b[31mat", "c\u202eat"])
def test_a_class_name_that_cannot_be_shown_is_refused(root: Path, name: str) -> None:
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / name)
    message = refusal(root)
    assert ascii(name) in message and message.isprintable()


def test_a_path_with_a_nul_is_a_line_and_no_bug() -> None:
    _, text = read_shipped("digits", "configs")
    text = text.replace('name = "digits"', 'name = "digits"\ndata_dir = "a\\u0000b"', 1)
    with pytest.raises(ConfigError, match=r"dataset\.data_dir: a path holds no NUL"):
        parse_config(text, RunConfig, source="run.toml")
