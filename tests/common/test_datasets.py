"""Splits: they repeat, they are stratified, and fingerprints tell them apart."""

import pwd
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import DatasetConfig
from common.data.datasets import (
    Dataset,
    Split,
    dataset_notes,
    load_all_training_images,
    load_dataset,
    stratified,
)
from common.data.sources import default_data_dir
from common.errors import DataError


def _rows(*splits: Split) -> list[tuple[bytes, int]]:
    return sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


def _without(
    rows: list[tuple[bytes, int]], others: list[tuple[bytes, int]]
) -> list[tuple[bytes, int]]:
    return sorted((Counter(rows) - Counter(others)).elements())


def test_digits_have_1437_images_to_learn_from_and_360_to_test_on(
    digits: Dataset,
) -> None:
    assert len(digits.train) + len(digits.val) == 1437
    assert len(digits.test) == 360
    assert digits.sample_shape == (1, 8, 8)
    assert digits.class_names == tuple("0123456789")


def test_digits_pixels_are_the_sixteenths_of_scikit_learn_in_255_steps(
    digits: Dataset,
) -> None:
    levels = {round(k * 255 / 16) for k in range(17)}
    assert set(np.unique(digits.train.images)) == levels


def test_digits_load_without_sklearn_torch_or_torchvision() -> None:
    code = (
        "import sys; from common.config import DatasetConfig;"
        "from common.data.datasets import load_dataset;"
        "load_dataset(DatasetConfig(), seed=0).train.fingerprint();"
        "print([m for m in ('sklearn', 'torch', 'torchvision') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]"


def test_the_same_seed_gives_the_same_splits(digits: Dataset) -> None:
    again = load_dataset(DatasetConfig(), seed=0)
    assert again.train.fingerprint() == digits.train.fingerprint()
    assert again.val.fingerprint() == digits.val.fingerprint()


def test_the_digits_fingerprint_stays_what_releases_were_signed_with(
    digits: Dataset,
) -> None:
    # A change here breaks every published release: nodes would refuse them all.
    assert digits.train.fingerprint() == (
        "461336590cdaf0a202ebf4983c9e2f3beb7125c26d46ce1bec37f1e37ab6fdfa"
    )


def test_another_seed_moves_validation_images_but_never_test_images(
    digits: Dataset,
) -> None:
    other = load_dataset(DatasetConfig(), seed=1)
    assert other.val.fingerprint() != digits.val.fingerprint()
    assert other.test.fingerprint() == digits.test.fingerprint()


def test_train_and_validation_share_no_position(digits: Dataset) -> None:
    other = load_dataset(DatasetConfig(), seed=1)
    assert _rows(digits.train, digits.val) == _rows(other.train, other.val)


def test_a_limit_takes_a_stratified_subset_before_the_validation_cut() -> None:
    limited = load_dataset(DatasetConfig(limit=100, val_fraction=0.2), seed=0)
    assert (len(limited.train), len(limited.val)) == (80, 20)
    counts = np.bincount(np.concatenate([limited.train.labels, limited.val.labels]))
    assert counts.min() >= 9 and counts.max() <= 11
    assert len(limited.test) == 360


def test_a_limit_beyond_the_images_takes_all(digits: Dataset) -> None:
    all_of_them = load_dataset(DatasetConfig(limit=100_000), seed=0)
    assert all_of_them.train.fingerprint() == digits.train.fingerprint()


def test_all_training_images_are_those_of_the_limit_and_what_it_left_out(
    digits: Dataset,
) -> None:
    config = DatasetConfig(limit=100)
    few, whole = load_dataset(config, seed=0), load_all_training_images(config, seed=0)
    beside = _rows(few.val, few.test)
    assert _rows(whole) == _without(
        _rows(digits.train, digits.val, digits.test), beside
    )


def test_without_a_limit_all_training_images_are_the_training_split(
    digits: Dataset,
) -> None:
    whole = load_all_training_images(DatasetConfig(), seed=0)
    assert whole.fingerprint() == digits.train.fingerprint()


@given(st.data())
def test_a_fingerprint_changes_with_any_pixel_label_shape_or_order(
    data: st.DataObject,
) -> None:
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    split = Split(images, np.array([0, 1, 2, 0, 1]))
    pixels, labels = images.copy(), split.labels.copy()
    change = data.draw(st.sampled_from(["pixel", "label", "shape", "order"]))
    k = data.draw(st.integers(0, 4))
    if change == "pixel":
        pixels[k, 0, 1, 0] ^= 1
    elif change == "label":
        labels[k] += 1
    elif change == "shape":
        pixels = pixels.reshape(5, 1, 1, 4)
    else:
        pixels, labels = np.roll(pixels, k + 1, 0), np.roll(labels, k + 1)
        if k == 4:  # rolled all the way round
            assert Split(pixels, labels).fingerprint() == split.fingerprint()
            return
    assert Split(pixels, labels).fingerprint() != split.fingerprint()


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.floats(0.01, 0.5),
    st.integers(0, 2**40),
)
def test_a_stratified_choice_takes_each_class_at_its_share_and_leaves_one(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = stratified(labels, fraction, seed=seed)
    assert (np.diff(chosen) > 0).all()  # ascending, none twice
    taken = np.bincount(labels[chosen], minlength=len(counts))
    for count, take in zip(counts, taken, strict=True):
        assert abs(take - count * fraction) <= 1
        assert take <= count - 1


def test_tensors_are_floats_between_0_and_1(digits: Dataset) -> None:
    x, y = digits.val.tensors()
    assert x.dtype.is_floating_point and y.dtype.is_signed
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert x.shape == (len(digits.val), 1, 8, 8)


def test_read_only_images_become_tensors_without_a_warning(digits: Dataset) -> None:
    images = digits.val.images.copy()
    images.setflags(write=False)  # as Ray hands arrays out
    x, _ = Split(images, digits.val.labels).tensors()
    assert len(x) == len(images)


def test_a_class_that_a_small_limit_leaves_out_is_noted_by_name() -> None:
    config = DatasetConfig(name="digits", limit=40)  # four validation images
    dataset = load_dataset(config, seed=0)
    (absent,) = dataset.absent_classes.values()
    assert len(absent) == 10 - len(dataset.val)
    (note,) = dataset.notes
    assert note.startswith(f"no validation image is of class {', '.join(absent[:5])}")
    assert "raise dataset.limit or dataset.val_fraction" in note
    assert dataset_notes(config, seed=0) == dataset.notes


def test_where_every_class_is_measured_nothing_is_noted(digits: Dataset) -> None:
    assert digits.absent_classes == {} and digits.notes == ()


def test_a_user_without_a_home_is_asked_for_a_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as in a container's numeric user
    with pytest.raises(DataError, match="give --data-dir DIR, or set HOME"):
        load_dataset(DatasetConfig(name="mnist"), seed=0)


def test_a_home_that_cannot_be_written_is_named_rather_than_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()  # no folder can be made below a file, also by root
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=r"cannot be made .*Not a directory") as e:
        load_dataset(DatasetConfig(name="mnist"), seed=0)
    assert "go online" not in str(e.value)


def test_only_an_absolute_cache_folder_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert default_data_dir() == Path("/home/somebody/.cache/takt/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert default_data_dir() == Path("/var/cache/takt/data")
