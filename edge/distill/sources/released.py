"""What a release gives a student to begin with: images, and starting weights.

A release ships its images, or its node holds the cloud's and rebuilds them; either way
they are those of its fingerprint. Not here: what is known of them
(edge.distill.knowledge).
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from common.config import DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from common.data.sources import NODE_OPTION
from common.errors import ConfigError, StorageError, TrustError
from common.model_names import is_packaged
from common.models.files import load_model
from common.release import Manifest, ShardInfo, release_images
from edge.distill.batch import Images
from edge.distill.knowledge import read_file


class ReleasedImages(NamedTuple):
    """The images of a release: sample i of its knowledge is image i of `train`."""

    train: Images
    val: Images  # never trained on, by nobody; may be empty


def released_images(
    files: DatasetConfig,
    manifest: Manifest,
    release_dir: Path,
    *,
    option: str = NODE_OPTION,
) -> ReleasedImages:
    """Read the images that a release ships, or rebuild those of its cloud.

    Args:
        files: where the node has the cloud's data set, if it needs it.
        manifest: of the release.
        release_dir: of the pulled files.
        option: by which the data set's folder is given, for the advice.

    Raises:
        DataError: the node's images are missing or damaged.
        TrustError: they are not the images of the release.
    """
    if manifest.images == "same":
        return _rebuilt(files, manifest, option)

    def read(info: ShardInfo) -> bytes:
        return read_file(release_dir / Path(info.path).name)

    train = release_images(manifest, "images", read)
    val = release_images(manifest, "val_images", read)
    return ReleasedImages(
        *(Images(torch.from_numpy(x), torch.from_numpy(y)) for x, y in (train, val))
    )


def cloud_dataset(files: DatasetConfig, manifest: Manifest) -> DatasetConfig:
    """Say what the cloud took of which data set, and where its files lie here."""
    return files.model_copy(
        update={
            "name": manifest.dataset,
            "limit": manifest.limit,
            "val_fraction": manifest.val_fraction,
            "image_size": manifest.image_size,
        }
    )


def _rebuilt(files: DatasetConfig, manifest: Manifest, option: str) -> ReleasedImages:
    config = cloud_dataset(files, manifest)
    # No download: it needs torchvision, which does not fit a small node's caps.
    dataset = load_dataset(config, seed=manifest.seed, download=None, option=option)
    found = dataset.train.fingerprint()
    if found != manifest.fingerprint:
        raise TrustError(
            f"the images here are not those of the release: {len(dataset.train)} "
            f"training images of {manifest.dataset} with fingerprint {found[:12]}, "
            f"expected {manifest.num_samples} with {manifest.fingerprint[:12]}; "
            "give the node the same files as the cloud"
        )
    return ReleasedImages(Images.of(dataset.train), Images.of(dataset.val))


def shipped_student(
    manifest: Manifest, student: str, recipe: StudentConfig, release_dir: Path
) -> nn.Module | None:
    """Read the starting weights of a student, as a model; None: the release has none.

    Raises:
        TrustError: they are damaged, or of another model than the recipe's.
        ConfigError: they are of another version of the recipe's package.
    """
    info = manifest.weights.get(student)
    if info is None:
        return None
    path = release_dir / Path(info.path).name
    found = hashlib.sha256(read_file(path)).hexdigest()
    if found != info.sha256:
        raise TrustError(
            f"starting weights {path} have sha256 {found[:12]}, the manifest declares "
            f"{info.sha256[:12]}; pull the release again"
        )
    try:
        model, card = load_model(path)
    except StorageError as e:
        # Its bytes are the signed ones: what does not fit is the package here.
        kind = ConfigError if is_packaged(recipe.model) else TrustError
        raise kind(f"starting weights of '{student}': {e}") from e
    channels, size, _ = manifest.sample_shape
    wanted = (recipe.model, channels, size, manifest.num_classes)
    given = (card.architecture, card.in_channels, card.image_size, card.num_classes)
    if given != wanted:
        raise TrustError(
            f"starting weights of '{student}' are of {_described(*given)}, expected "
            f"{_described(*wanted)}; publish the release again"
        )
    return model


def _described(architecture: str, channels: int, size: int, num_classes: int) -> str:
    return f"{architecture} for {channels}x{size}x{size}, {num_classes} classes"
