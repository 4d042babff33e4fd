"""A node's own class folders: what is read, and what is said of the rest."""

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import pytest
from class_folders import save_image, write_tree
from numpy.typing import NDArray
from PIL import Image

from common.data.folder_counts import count_folder
from common.data.own_folder import ImageKind, read_own_folder
from common.data.sources import CLASS_NAMES
from common.errors import DataError

KIND = ImageKind(("cat", "dog", "owl"), (1, 8, 8))


def pairs(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> set[tuple[int, str]]:
    return {
        (int(label), image.tobytes().hex())
        for image, label in zip(images, labels, strict=True)
    }


def test_some_classes_and_images_without_a_label_are_a_folder_of_a_node(
    tmp_path: Path,
) -> None:
    own = read_own_folder(write_tree(tmp_path, {"owl": 10, "unlabelled": 4}), KIND)
    assert np.bincount(own.train.labels + 1).tolist() == [4, 0, 0, 8]
    assert own.val.labels.tolist() == [2, 2]
    assert own.num_labelled == 8
    assert own.notes == ()


def test_a_fifth_of_each_class_is_set_aside_and_is_not_trained_on(
    tmp_path: Path,
) -> None:
    own = read_own_folder(write_tree(tmp_path, {"cat": 4, "dog": 5, "owl": 21}), KIND)
    assert np.bincount(own.val.labels).tolist() == [0, 1, 4]
    both = [pairs(part.images, part.labels) for part in (own.train, own.val)]
    assert both[0] & both[1] == set()
    assert len(both[0] | both[1]) == 30
    assert own.notes == (
        "own images of 1 of 3 classes have less than 5 with labels each: none of these "
        "measures the student",
    )


def test_images_set_aside_stay_so_when_others_are_added(tmp_path: Path) -> None:
    before = read_own_folder(write_tree(tmp_path, {"cat": 20}), KIND).val
    for k in range(5):
        save_image(tmp_path / "cat" / f"new-{k}.png", Image.new("L", (8, 8), k))
    after = read_own_folder(tmp_path, KIND).val
    kept = pairs(before.images, before.labels) & pairs(after.images, after.labels)
    assert len(kept) >= 3


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ({"cat": 1, "dog": 1}, "no class has 5 with labels"),
        ({"unlabelled": 9}, "none has a label"),
    ],
)
def test_it_is_said_where_no_own_image_measures_the_student(
    tmp_path: Path, classes: dict[str, int], why: str
) -> None:
    own = read_own_folder(write_tree(tmp_path, classes), KIND)
    assert len(own.val) == 0
    assert own.notes == (
        f"no own image is set aside for validation ({why}): the student is measured "
        "on the release's images alone",
    )


def test_a_folder_that_is_no_class_of_the_release_is_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 5, "fox": 5})
    with pytest.raises(DataError) as refused:
        read_own_folder(tmp_path, KIND)
    assert str(refused.value) == (
        f"{tmp_path / 'fox'} is no class of the release; expected unlabelled or one of "
        "cat, dog, owl; rename the folder, or move its images to unlabelled/"
    )


def test_a_class_with_a_slash_in_its_name_has_a_folder(tmp_path: Path) -> None:
    clothes = ImageKind(CLASS_NAMES["fashion-mnist"], (1, 8, 8))
    write_tree(tmp_path, {"T-shirt_top": 5, "Trouser": 5})
    assert (
        np.bincount(read_own_folder(tmp_path, clothes).train.labels).tolist() == [4] * 2
    )
    (tmp_path / "T-shirt_top").rename(tmp_path / "T-shirt")
    with pytest.raises(DataError, match=r"or one of T-shirt_top, Trouser, .*; rename"):
        read_own_folder(tmp_path, clothes)


@pytest.mark.parametrize(("of_release", "of_folder"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_unicode_form_of_a_folders_name_does_not_matter(
    of_release: Literal["NFC", "NFD"],
    of_folder: Literal["NFC", "NFD"],
    tmp_path: Path,
) -> None:
    names = ("caf\u00e9", "tea")
    kind = ImageKind(tuple(normalize(of_release, n) for n in names), (1, 8, 8))
    write_tree(tmp_path, {normalize(of_folder, "caf\u00e9"): 5})
    assert set(read_own_folder(tmp_path, kind).train.labels) == {0}


def test_a_class_that_has_a_folders_name_as_it_is_comes_first(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a_b": 5})
    kind = ImageKind(("a/b", "a_b"), (1, 8, 8))
    assert set(read_own_folder(tmp_path, kind).train.labels) == {1}


def test_a_class_folder_that_is_a_link_to_nowhere_is_refused_and_not_left_out(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 5})
    (tmp_path / "owl").symlink_to("/not-mounted/owl")
    for read in (
        lambda: read_own_folder(tmp_path, KIND),
        lambda: count_folder(tmp_path),
    ):
        with pytest.raises(
            DataError, match=r"owl is a link to /not-mounted/owl, which"
        ):
            read()


def test_images_of_another_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 1}, size=10)
    with pytest.raises(DataError, match=r"0\.png has 10x10 pixels, .* 8x8; resize"):
        read_own_folder(tmp_path, KIND)


def test_they_are_resized_where_the_cloud_resizes_its_own(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 6}, size=16)
    kind = ImageKind(KIND.class_names, KIND.sample_shape, resized=True)
    assert read_own_folder(tmp_path, kind).train.images.shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("mode", "channels", "said"),
    [("RGB", 1, "in colour and are made grey"), ("L", 3, "grey and are made RGB")],
)
def test_other_channels_are_converted_and_it_is_said(
    tmp_path: Path, mode: str, channels: int, said: str
) -> None:
    write_tree(tmp_path, {"cat": 10}, mode=mode)
    own = read_own_folder(tmp_path, ImageKind(KIND.class_names, (channels, 8, 8)))
    assert own.train.images.shape == (8, channels, 8, 8)
    assert own.notes == (
        f"10 of 10 images in {tmp_path} are {said}, as the release's are",
    )


def truncated(path: Path) -> Path:
    """Cut a PNG in the middle of its pixels; its header stays whole."""
    data = path.read_bytes()
    at = data.index(b"IDAT")
    short = data[: at + 4] + data[at + 4 : at + 12]
    path.write_bytes(short[: at - 4] + struct.pack(">I", 8) + short[at:])
    return path


def test_unreadable_images_are_named_and_counted_and_the_rest_is_used(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 10, "dog": 10})
    truncated(tmp_path / "cat" / "0.png")
    (tmp_path / "dog" / "3.png").write_bytes(b"no image at all")
    (tmp_path / "dog" / "notes.txt").write_text("read me")
    own = read_own_folder(tmp_path, KIND)
    assert len(own.train) + len(own.val) == 18
    passed_over, left_out = own.notes
    assert passed_over.startswith(f"passed over in {tmp_path}: 1 .txt in dog/")
    assert left_out.startswith(f"2 of 20 images in {tmp_path} are left out: ")
    assert "dog/3.png" in left_out
    assert "cat/0.png" in left_out


LATIN1 = os.fsdecode(b"caf\xe9.png")


def test_an_image_whose_name_is_not_utf8_is_read_like_any_other(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 10})
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / LATIN1)
    own = read_own_folder(tmp_path, KIND)
    assert (len(own.train), len(own.val), own.notes) == (8, 2, ())


def test_a_note_about_a_file_whose_name_is_not_utf8_can_be_written_down(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 10})
    (tmp_path / "cat" / LATIN1).write_bytes(b"")
    (tmp_path / "cat" / os.fsdecode(b"a.caf\xe9")).write_bytes(b"")
    notes = read_own_folder(tmp_path, KIND).notes
    assert r"1 .caf\udce9 in cat/" in notes[0]
    assert r"cat/caf\udce9.png: it is empty" in notes[1]
    "".join(notes).encode()


def test_an_image_of_too_many_pixels_is_left_out_and_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 10})
    Image.new("1", (5100, 5000)).save(tmp_path / "cat" / "0.png")
    own = read_own_folder(tmp_path, replace(KIND, resized=True))
    assert len(own.train) + len(own.val) == 9
    assert "cat/0.png has 5100x5000 pixels" in own.notes[0]


def test_a_folder_with_unreadable_images_alone_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"cat": 2})
    for path in tmp_path.glob("cat/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the images .* can be read: cannot"):
        read_own_folder(tmp_path, KIND)


@pytest.mark.parametrize("folder", ["", "missing"])
def test_an_empty_or_missing_folder_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DataError, match=r"holds no image|cannot read"):
        read_own_folder(tmp_path / folder, KIND)


def test_pixels_go_where_the_caller_has_room_for_them(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", {"cat": 10})
    rooms: list[np.memmap[tuple[int, ...], np.dtype[np.uint8]]] = []

    def on_disk(shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        rooms.append(np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=shape))
        return rooms[0]

    own = read_own_folder(tmp_path / "own", KIND, allocate=on_disk)
    assert np.shares_memory(own.train.images, rooms[0])
    assert np.shares_memory(own.val.images, rooms[0])
    assert (rooms[0][:8] == own.train.images).all()


@pytest.mark.parametrize("folder", ["unlabelled", "dog"])
def test_a_copy_of_an_image_set_aside_is_not_trained_on_whatever_its_folder(
    folder: str, tmp_path: Path
) -> None:
    write_tree(tmp_path, {"cat": 10, "dog": 3, "unlabelled": 2})
    aside = read_own_folder(tmp_path, KIND).val.images[0]
    for path in tmp_path.glob("cat/*.png"):
        if (np.asarray(Image.open(path)) == aside[0]).all():
            save_image(tmp_path / folder / "copy.bmp", Image.open(path))
    own = read_own_folder(tmp_path, KIND)
    both = [{image.tobytes() for image in part.images} for part in (own.train, own.val)]
    assert aside.tobytes() in both[1]
    assert both[0] & both[1] == set()
    assert own.notes[0] == (
        f"1 of 16 images in {tmp_path} are copies of images that measure students, "
        "and are not trained on"
    )


def test_a_folder_with_copies_of_one_image_alone_is_refused(tmp_path: Path) -> None:
    for k in range(5):
        save_image(tmp_path / "cat" / f"{k}.png", Image.new("L", (8, 8), 7))
    with pytest.raises(DataError, match="is left to train on: of 5, 4 are copies of"):
        read_own_folder(tmp_path, KIND)
