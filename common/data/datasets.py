"""Data sets as three splits of uint8 images, the same on every machine.

digits (bundled), MNIST, FashionMNIST, CIFAR-10 and any class-folder tree. The
splits depend on the files, the config and the seed alone, so that a node can
rebuild the training split of a release and prove it by its fingerprint.
Not here: augmentation, batching, file formats (`idx.py`, `image_folder.py`),
where files lie and downloads (`sources.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config import DatasetConfig
from common.data.fingerprint import Fingerprint
from common.data.sources import (
    RUN_OPTION,
    Download,
    Source,
    Sources,
    download_public,
    open_sources,
)
from common.errors import DataError
from common.text import counted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Split:
    """Labelled images in a fixed order.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def tensors(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Copy to torch: x float32 (N, C, H, W) in [0, 1] and y int64 (N,)."""
        import torch

        images = self.images
        if not images.flags.writeable:  # as Ray hands them out; torch would warn
            images = images.copy()
        x = torch.from_numpy(images).float().div_(255)
        return x, torch.from_numpy(self.labels.copy())

    def fingerprint(self) -> str:
        """Hash shape, pixels and labels in order: sha256, hex."""
        found = Fingerprint(self.images.shape)
        found.add(self.images, self.labels)
        return found.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A named data set; sample i of a release is sample i of `train`."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    notes: tuple[str, ...] = ()  # what a user should know, one line each

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """State the shape (C, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def absent_classes(self) -> dict[str, tuple[str, ...]]:
        """Name the classes of which "validation" or "test" has no image."""
        measured = {"validation": self.val.labels, "test": self.test.labels}
        found = {s: _absent(self.class_names, each) for s, each in measured.items()}
        return {split: classes for split, classes in found.items() if classes}

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.class_names)


def load_dataset(
    config: DatasetConfig,
    *,
    seed: int,
    download: Download | None = download_public,
    option: str = RUN_OPTION,
) -> Dataset:
    """Load a data set and cut validation images from its training images.

    Args:
        config: name, folder, `limit` (a stratified subset of the training images,
            taken first) and `val_fraction` (stratified, of what remains).
        seed: decides which images are taken; same seed, same splits.
        download: fetches a public data set that is missing; None never does.
        option: by which a verb or a file takes the folder, for the advice.

    Raises:
        DataError: files are missing, damaged or unreadable, or there are too few
            classes or images.
    """
    source = open_sources(config, download, option=option)
    train, test = source.train, source.test
    cut = _cut(source, config, seed)
    if test is None:
        test = train.subset(cut.test)
    _check_splits(source, config, cut.val, test.labels)
    return Dataset(
        name=config.name,
        class_names=source.class_names,
        train=_read(train, cut.train),
        val=_read(train, cut.val),
        test=_read(test, np.arange(len(test.labels))),
        notes=_notes(source, config, cut),
    )


def dataset_notes(config: DatasetConfig, *, seed: int) -> tuple[str, ...]:
    """Say what `load_dataset` would note; reads no pixels of a user's own images.

    None where the files are missing or damaged.
    """
    if config.name != "folder" and config.limit is None:
        return ()
    try:
        source = open_sources(config, None)
        return _notes(source, config, _cut(source, config, seed))
    except DataError:
        return ()


def _notes(source: Sources, config: DatasetConfig, cut: "_Cut") -> tuple[str, ...]:
    """State what a user should know of a data set."""
    notes = source.notes
    test = source.train.labels[cut.test] if source.test is None else source.test.labels
    for split, labels in (("validation", source.train.labels[cut.val]), ("test", test)):
        if absent := _absent(source.class_names, labels):
            notes += (
                f"{describe_absent(split, absent)}, so nothing is measured there; "
                "raise dataset.limit or dataset.val_fraction",
            )
    if source.test is not None or config.name == "digits":
        return notes
    return (
        *notes,
        f"no separate test images: {len(cut.test)} of {len(source.train.labels)}, "
        "stratified, set aside as the test split",
    )


def load_all_training_images(
    config: DatasetConfig, *, seed: int, download: Download | None = download_public
) -> Split:
    """Load all training images but the validation and test images of `load_dataset`.

    It is the training split of `load_dataset` and what `limit` leaves out of it.

    Raises:
        DataError: as `load_dataset`.
    """
    source = open_sources(config, download)
    cut = _cut(source, config, seed)
    return _read(source.train, np.union1d(cut.train, cut.left_out))


def load_left_out_images(
    config: DatasetConfig, *, seed: int, download: Download | None = download_public
) -> Split:
    """Load the training images that `limit` leaves out of `load_dataset`.

    Raises:
        DataError: files are missing, damaged or unreadable, or it leaves none out.
    """
    source = open_left_out(config, seed=seed, download=download)
    if len(source.labels) == 0:
        raise DataError(
            f"dataset.limit = {config.limit} leaves no training image of data set "
            f"'{config.name}' out, and the teacher is to have those; lower it"
        )
    return _read(source, np.arange(len(source.labels)))


def open_left_out(
    config: DatasetConfig,
    *,
    seed: int,
    download: Download | None = download_public,
    option: str = RUN_OPTION,
) -> Source:
    """Open the training images that `limit` leaves out of `load_dataset`.

    Nobody trains on them but nodes that draw images of their own, or a teacher that is
    to have others than nodes.

    Args:
        config: name, folder, `limit` and `val_fraction`, as of `load_dataset`.
        seed: decides which images those are.
        download: fetches a public data set that is missing; None never does.
        option: by which a verb or a file takes the folder, for the advice.

    Raises:
        DataError: files are missing, damaged or unreadable.
    """
    source = open_sources(config, download, option=option)
    return source.train.subset(_cut(source, config, seed).left_out)


class _Cut(NamedTuple):
    """Which training images of a source go to which split: positions, ascending."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]  # empty: the source has test images of its own
    left_out: NDArray[np.int64]  # by `limit`


def _cut(source: Sources, config: DatasetConfig, seed: int) -> _Cut:
    """Divide the training images of a source into the splits."""
    labels = source.train.labels
    everything, test = np.arange(len(labels)), np.empty(0, np.int64)
    if source.test is None:
        test = stratified(labels, source.test_fraction, seed=0)
    available = np.setdiff1d(everything, test)
    _check_classes(labels[available], len(source.class_names), config)
    chosen = available
    if config.limit is not None and config.limit < len(available):
        fraction = config.limit / len(available)
        chosen = available[stratified(labels[available], fraction, seed=seed)]
    val = chosen[stratified(labels[chosen], config.val_fraction, seed=seed + 1)]
    return _Cut(
        train=np.setdiff1d(chosen, val),
        val=val,
        test=test,
        left_out=np.setdiff1d(available, chosen),
    )


def stratified(
    labels: NDArray[np.int64], fraction: float, *, seed: int
) -> NDArray[np.int64]:
    """Choose round(fraction * N) positions with each class at its own share.

    Largest remainders decide where shares are not whole; a class keeps at least
    one image on the other side. Returned in ascending order.
    """
    # RandomState, not Generator: its streams are frozen across numpy versions,
    # and cloud and node must choose the same images.
    random = np.random.RandomState(seed % 2**32)
    counts = np.bincount(labels)
    shares = counts * fraction
    take = np.floor(shares).astype(np.int64)
    missing = round(float(shares.sum())) - int(take.sum())
    take[np.argsort(take - shares, kind="stable")[:missing]] += 1
    take = np.minimum(take, np.maximum(counts - 1, 0))
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[: take[label]]
        for label in range(len(counts))
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _read(source: Source, positions: NDArray[np.int64]) -> Split:
    return Split(source.read(positions), source.labels[positions])


def _check_splits(
    source: Sources,
    config: DatasetConfig,
    val: NDArray[np.int64],
    test_labels: NDArray[np.int64],
) -> None:
    """Refuse empty splits, and a user's own images that leave a class unmeasured."""
    labels = source.train.labels
    measured = {"validation": labels[val], "test": test_labels}
    for split, found in measured.items():
        if len(found) == 0:
            raise DataError(
                f"data set '{config.name}' leaves no {split} image out of "
                f"{len(labels)}; add images or raise dataset.val_fraction"
            )
    # Of the public sets a small limit may leave a class out of the validation images:
    # that is noted, see `Dataset.absent_classes`.
    if config.name != "folder":
        return
    for split, found in measured.items():
        absent = _absent(source.class_names, found)
        if absent:
            fix = "add images of it"
            if split == "validation":
                fix += " or raise dataset.val_fraction"
            elif source.test is None:
                fix += " or a test/ folder with some"
            raise DataError(
                f"{describe_absent(split, absent)}, so robustness there would not be "
                f"measured; {fix}"
            )


def _absent(class_names: tuple[str, ...], labels: NDArray[np.int64]) -> tuple[str, ...]:
    absent = np.setdiff1d(np.arange(len(class_names)), labels)
    return tuple(class_names[k] for k in absent)


def describe_absent(split: str, classes: Sequence[str]) -> str:
    """Say of which classes a split has no image; names five at most."""
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return f"no {split} image is of class {', '.join(classes[:5])}{more}"


def _check_classes(
    labels: NDArray[np.int64], num_classes: int, config: DatasetConfig
) -> None:
    """Refuse a data set with too few classes, or too few images for them."""
    counts = np.bincount(labels, minlength=num_classes)
    present = int((counts > 0).sum())
    if present < 2:
        raise DataError(
            f"data set '{config.name}' has images of "
            f"{counted(present, 'class', 'classes')} only, expected at least 2"
        )
    if config.limit is not None and config.limit < 2 * present:
        raise DataError(
            f"dataset.limit = {config.limit} is too small for {present} classes; "
            f"expected at least {2 * present}"
        )
