"""Class folders, CIFAR-10's among them: what is read, and what bad trees say."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from class_folders import read_folder, save_image, write_tree
from PIL import Image

from common.config import DatasetConfig
from common.data.datasets import dataset_notes, load_dataset
from common.data.image_folder import Form, common_form, read_images, size_and_mode
from common.data.sources import CLASS_NAMES
from common.errors import DataError


def test_a_folder_data_set_without_a_folder_says_how_to_give_one() -> None:
    with pytest.raises(DataError, match=r"--data-dir.*train/CLASS/IMAGE"):
        load_dataset(DatasetConfig(name="folder"), seed=0)


def test_the_classes_of_a_folder_tree_are_its_sorted_folders(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"pear": 20, "apple": 20})
    write_tree(tmp_path / "test", {"pear": 3, "apple": 2})
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("apple", "pear")
    assert dataset.sample_shape == (1, 8, 8)  # all grey: one channel
    found = zip(dataset.test.labels.tolist(), dataset.test.images, strict=True)
    on_disk = set()
    for path in (tmp_path / "test").glob("*/*.png"):
        label = dataset.class_names.index(path.parent.name)
        with Image.open(path) as image:
            on_disk.add((label, np.asarray(image).tobytes()))
    assert {(label, image.tobytes()) for label, image in found} == on_disk


def test_the_first_images_of_a_folder_tree_are_of_all_classes_as_elsewhere(
    tmp_path: Path,
) -> None:
    classes = {"a": 100, "b": 100, "c": 100, "d": 100}
    write_tree(tmp_path / "train", classes)
    write_tree(tmp_path / "test", classes)
    dataset = read_folder(tmp_path)
    for split in (dataset.train, dataset.val, dataset.test):
        first = np.bincount(split.labels[: len(split) // 2], minlength=4)
        assert (first >= len(split) // 16).all()
    again = read_folder(tmp_path)
    assert again.train.fingerprint() == dataset.train.fingerprint()


def test_without_a_test_folder_a_stratified_test_split_is_cut_and_said(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"a": 40, "b": 20})
    dataset = read_folder(tmp_path)
    assert np.bincount(dataset.test.labels).tolist() == [8, 4]
    assert "12 of 60" in dataset.notes[0] and "test" in dataset.notes[0]
    splits = (dataset.train, dataset.val, dataset.test)
    assert len({image.tobytes() for s in splits for image in s.images}) == 60


def test_one_coloured_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 20})
    write_tree(tmp_path / "train" / "x", {"b": 20}, mode="RGB")
    (tmp_path / "train" / "x" / "b").rename(tmp_path / "train" / "b")
    (tmp_path / "train" / "x").rmdir()
    dataset = read_folder(tmp_path)
    assert dataset.sample_shape == (3, 8, 8)
    grey = dataset.train.images[dataset.train.labels == 0]
    assert (grey[:, 0] == grey[:, 2]).all()


def test_images_are_resized_to_image_size(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 10, "b": 10}, mode="RGB", size=20)
    assert read_folder(tmp_path, image_size=16).sample_shape == (3, 16, 16)


def test_images_of_different_size_need_an_image_size(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 10, "b": 10}, size=8)
    odd = tmp_path / "train" / "b" / "9.png"
    Image.new("L", (9, 8)).save(odd)
    with pytest.raises(DataError, match=r"9\.png has 9x8.*dataset\.image_size"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, image_size=8).sample_shape == (1, 8, 8)


def test_hidden_files_and_notes_beside_the_images_are_passed_over(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"a": 20, "b": 20})
    (tmp_path / "train" / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / "a" / "README.txt").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.csv").write_text("x")
    dataset = read_folder(tmp_path)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 40


def test_a_tree_of_one_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"only": 30})
    with pytest.raises(DataError, match=r"1 class folder.*at least 2"):
        read_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/train: No such file.*CLASS/IMAGE"):
        read_folder(tmp_path / "nowhere")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 30, "b": 0})
    with pytest.raises(DataError, match=r"train/b holds no image"):
        read_folder(tmp_path)


def test_a_test_class_that_training_does_not_know_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 30, "b": 30})
    write_tree(tmp_path / "test", {"a": 3, "c": 3})
    with pytest.raises(DataError, match=r"test/c is not a class.*a, b"):
        read_folder(tmp_path)


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty"])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: str) -> None:
    write_tree(tmp_path / "train", {"a": 30, "b": 30}, size=32)
    path = tmp_path / "train" / "b" / "17.png"
    data = path.read_bytes()
    path.write_bytes({"garbage": b"no image", "cut": data[:200], "empty": b""}[damage])
    with pytest.raises(DataError) as error:
        read_folder(tmp_path)
    assert f"cannot read image {path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 30, "b": 30})
    bomb = tmp_path / "train" / "a" / "0.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    with pytest.raises(DataError, match=r"a/0\.png"):
        read_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_of_more_pixels_than_a_photo_has_is_refused_from_its_header(
    tmp_path: Path, suffix: str
) -> None:
    path = save_image(tmp_path / f"a.{suffix}", Image.new("L", (5100, 5000)))
    small = save_image(tmp_path / "b.png", Image.new("L", (8, 8)))
    for read in (
        lambda: size_and_mode(path),
        lambda: common_form([small, path], 8),
        lambda: read_images([path], Form("L", 8)),
    ):
        with pytest.raises(DataError, match=rf"a\.{suffix} has 5100x5000 pixels, exp"):
            read()


def test_a_photo_of_24_megapixels_is_read(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", Image.new("1", (6048, 4032), 1))
    assert size_and_mode(path) == ((6048, 4032), "1")
    assert (read_images([path], Form("L", 8)) == 255).all()


def test_a_larger_image_is_read_where_it_is_reduced_while_it_is_decoded(
    tmp_path: Path,
) -> None:
    large = Image.new("L", (5100, 5000), 77)
    jpeg = save_image(tmp_path / "a.jpg", large)
    assert (read_images([jpeg], Form("L", 8), reduced=True) == 77).all()
    whole = save_image(tmp_path / "b.png", large)
    # All of its coefficients are in memory before the first pixel.
    progressive = save_image(tmp_path / "c.jpg", large, progressive=True)
    hardly = (jpeg, Form("L", 400))  # not below 16 times the wanted size
    for path, form in ((whole, Form("L", 8)), (progressive, Form("L", 8)), hardly):
        with pytest.raises(DataError, match="5100x5000 pixels"):
            read_images([path], form, reduced=True)


def test_too_few_images_to_cut_from_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"leaves no .* image out of 2"):
        read_folder(tmp_path)


def test_a_limit_below_two_images_a_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {f"c{k:02}": 4 for k in range(12)})
    config = DatasetConfig(name="folder", data_dir=tmp_path, limit=20)
    with pytest.raises(DataError, match="limit = 20 is too small for 12 classes"):
        load_dataset(config, seed=0)


_CIFAR_CLASSES = list(CLASS_NAMES["cifar10"])


def test_cifar10_class_folders_get_cifar10s_own_labels(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes = dict.fromkeys(_CIFAR_CLASSES, 4)
        write_tree(tmp_path / "cifar10" / part, classes, mode="RGB", size=32)
    config = DatasetConfig(name="cifar10", data_dir=tmp_path)
    dataset = load_dataset(config, seed=0)
    assert dataset.class_names == tuple(_CIFAR_CLASSES)
    assert dataset.sample_shape == (3, 32, 32)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (36, 4, 40)


def test_a_half_unpacked_cifar10_names_the_missing_classes(tmp_path: Path) -> None:
    classes = dict.fromkeys(_CIFAR_CLASSES[:8], 4)
    write_tree(tmp_path / "cifar10" / "train", classes, mode="RGB", size=32)
    with pytest.raises(DataError, match=r"lacks class folders: ship, truck"):
        load_dataset(DatasetConfig(name="cifar10", data_dir=tmp_path), seed=0)


def test_damaged_cifar10_batches_are_refused_before_they_are_unpickled(
    tmp_path: Path,
) -> None:
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        (batches / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # a pickle
    with pytest.raises(DataError, match="incomplete or damaged"):
        load_dataset(DatasetConfig(name="cifar10", data_dir=tmp_path), seed=0)


@pytest.mark.slow
def test_the_real_cifar10_is_read_from_class_folders(
    data_dir: Callable[[str], Path],
) -> None:
    config = DatasetConfig(name="cifar10", data_dir=data_dir("cifar10"), limit=500)
    dataset = load_dataset(config, seed=0)
    assert (len(dataset.train), len(dataset.test)) == (450, 10_000)


def test_files_passed_over_are_counted_by_suffix_and_folder(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"cat": 12, "dog": 12})
    write_tree(tmp_path / "test", {"cat": 4, "dog": 4})
    cat = tmp_path / "train" / "cat"
    for k in range(6):
        (cat / f"{k}.png").rename(cat / f"{k}.HEIC")
    (cat / "more").mkdir()
    for k in (6, 7):
        (cat / f"{k}.png").rename(cat / "more" / f"{k}.png")
    (tmp_path / "test" / "dog" / "list").write_text("")
    notes = read_folder(tmp_path).notes
    assert len(notes) == 2
    assert "6 .HEIC in cat/, 2 .png in cat/more/" in notes[0]
    assert "test" in notes[1] and "1 without suffix in dog/" in notes[1]


def test_a_link_to_a_folder_is_counted_and_not_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"cat": 12, "dog": 12})
    (tmp_path / "train" / "cat" / "loop").symlink_to("..")
    notes = " ".join(read_folder(tmp_path).notes)
    assert "1 link to a folder in cat/" in notes


def test_a_class_of_unread_files_only_says_which_those_are(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"a": 3, "b": 3})
    for path in sorted((tmp_path / "train" / "b").iterdir()):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"holds no image but 3 \.heic in b/"):
        read_folder(tmp_path)


def test_a_val_folder_beside_train_is_said_to_be_unused(tmp_path: Path) -> None:
    for part in ("train", "test", "val"):
        write_tree(tmp_path / part, {"a": 20, "b": 20})
    (tmp_path / "runs").mkdir()
    (note,) = read_folder(tmp_path).notes
    assert "val/ (40 files)" in note and "cut from train/" in note


def test_a_folder_in_good_order_needs_no_note(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_tree(tmp_path / part, {"a": 20, "b": 20})
    assert read_folder(tmp_path).notes == ()
    config = DatasetConfig(name="folder", data_dir=tmp_path)
    assert dataset_notes(config, seed=0) == ()


def test_a_class_absent_from_the_test_images_is_refused_by_name(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"cat": 1, "dog": 30})
    with pytest.raises(DataError, match=r"no (validation|test) image is of class cat"):
        read_folder(tmp_path)


def test_a_class_absent_from_the_test_folder_is_refused_by_name(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"cat": 30, "dog": 30})
    write_tree(tmp_path / "test", {"dog": 8})
    with pytest.raises(DataError, match=r"no test image is of class cat.*add images"):
        read_folder(tmp_path)


def test_a_class_absent_from_the_validation_images_is_refused_by_name(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path / "train", {"cat": 4, "dog": 60})
    write_tree(tmp_path / "test", {"cat": 2, "dog": 8})
    with pytest.raises(DataError, match=r"validation image is of class cat.*fraction"):
        read_folder(tmp_path)


def test_class_folders_without_train_above_them_are_told_where_to_go(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, {"cat": 3, "dog": 3})
    with pytest.raises(DataError, match=r"holds class folders.*mkdir train && mv"):
        read_folder(tmp_path)


def test_a_data_folder_one_level_off_is_told_the_right_one(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_tree(root / "train", {"cat": 30, "dog": 30})
    with pytest.raises(DataError, match=rf"give --data-dir {root}$"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match=rf"--data-dir {root}$"):
        read_folder(root / "train")


def test_a_class_folder_whose_name_is_not_utf8_is_refused_by_name(
    tmp_path: Path,
) -> None:
    latin1 = os.fsdecode(b"caf\xe9")
    write_tree(tmp_path / "train", {latin1: 30, "dog": 30})
    with pytest.raises(DataError, match=r"caf.*is not UTF-8; rename it") as error:
        read_folder(tmp_path)
    str(error.value).encode()  # can be shown


def test_notes_about_files_whose_names_are_not_utf8_can_be_written_down(
    tmp_path: Path,
) -> None:
    latin1 = os.fsdecode(b"caf\xe9")
    for part in ("train", latin1):
        write_tree(tmp_path / part, {"cat": 30, "dog": 30})
    first = tmp_path / "train" / "cat"
    (first / f"a.{latin1}").write_bytes(b"")
    frames = [Image.new("L", (8, 8), k) for k in (0, 255)]
    frames[0].save(first / f"{latin1}.gif", save_all=True, append_images=frames[1:])
    notes = read_folder(tmp_path).notes
    assert sum(r"caf\udce9" in note for note in notes) == 3
    "".join(notes).encode()


def test_one_class_name_in_two_unicode_forms_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", {"caf\u00e9": 30, "cafe\u0301": 30})
    with pytest.raises(DataError, match="one name in two Unicode forms"):
        read_folder(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_jpeg_read_at_reduced_size_differs_by_rounding_and_others_do_not(
    mode: str, tmp_path: Path
) -> None:
    y, x = np.mgrid[:1200, :1600]
    waves = 127 + 80 * np.sin(x / 97 + y / 53)[..., None] * [1.0, 0.5, -1.0]
    photo = Image.fromarray(waves.astype(np.uint8)).convert(mode)
    photo.save(tmp_path / "large.jpg", quality=90)
    photo.save(tmp_path / "large.png")
    photo.resize((60, 40)).save(tmp_path / "small.jpg")
    form = Form(mode, 28)

    def both(name: str) -> tuple[np.ndarray, np.ndarray]:
        whole = read_images([tmp_path / name], form)
        reduced = read_images([tmp_path / name], form, reduced=True)
        return whole.astype(int), reduced.astype(int)

    whole, reduced = both("large.jpg")
    assert 0 < np.abs(whole - reduced).max() <= 4
    for name in ("large.png", "small.jpg"):
        assert np.array_equal(*both(name))
