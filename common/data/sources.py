"""Where each data set's files lie, and how to fetch the public ones.

A `Source` knows all labels and reads only the images asked for. Layouts under
`data_dir` are torchvision's (``MNIST/raw``, ``FashionMNIST/raw``,
``cifar-10-batches-py``) or class folders (``cifar10/{train,test}/CLASS``; for
`folder`: ``{train,test}/CLASS``). torchvision is imported only where one of its
own formats or downloads is needed. Not here: splits and limits.
"""

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import DATA_DIR_MISSING, DatasetConfig
from common.data.idx import read_digits, read_idx
from common.data.image_folder import (
    Form,
    Tree,
    common_form,
    describe_oddities,
    describe_unused,
    holds_classes,
    read_images,
    scan_tree,
)
from common.data.listing import check_links, visible
from common.errors import DataError, one_line
from common.regular_file import is_folder, is_there

Download = Callable[[str, Path], None]
# What the advice in errors calls the place where a user names the data set's folder.
RUN_OPTION = "--data-dir"
NODE_OPTION = "data_dir ="  # in edge.toml

_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion-mnist": tuple(_CLOTHES.split(",")),
    "cifar10": tuple(_CIFAR10.split(",")),
}


@dataclass(frozen=True)
class Source:
    """Labels, and a reader of the images at given positions."""

    labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]

    def subset(self, positions: NDArray[np.int64]) -> "Source":
        """View only `positions` of this source."""
        return Source(self.labels[positions], lambda i: self.read(positions[i]))


@dataclass(frozen=True)
class Sources:
    """The training images of one data set, and its test images if it has them."""

    class_names: tuple[str, ...]
    train: Source
    test: Source | None  # None: a part of the training images becomes it
    test_fraction: float = 0.0  # how large that part is
    notes: tuple[str, ...] = ()  # what a user should know, one line each


def default_data_dir(option: str = RUN_OPTION) -> Path:
    """Return the folder of data sets for a config that names none.

    Args:
        option: as of `open_sources`.

    Raises:
        DataError: this user has no home, as in a container with a user id of its own.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # which the specification of XDG says to ignore
        try:
            cache = Path.home() / ".cache"
        except RuntimeError as e:
            raise DataError(
                "no folder is given for the data set, and this user has no home in "
                f"which one would be made; {_give(option)}, or set HOME"
            ) from e
    return cache / "takt" / "data"


def download_public(name: str, data_dir: Path) -> None:
    """Fetch a public data set through torchvision, in torchvision's layout.

    Raises:
        OSError, RuntimeError: as torchvision reports a failed download.
    """
    import torchvision.datasets

    with contextlib.redirect_stdout(io.StringIO()):  # a line per failed mirror
        getattr(torchvision.datasets, _TORCHVISION[name])(str(data_dir), download=True)


def open_sources(
    config: DatasetConfig, download: Download | None, *, option: str = RUN_OPTION
) -> Sources:
    """Find the files of a data set, fetching them where that is possible.

    Args:
        config: name and folder.
        download: fetches a public data set that is missing; None never does.
        option: by which a verb or a file takes the folder, for the advice.

    Raises:
        DataError: missing and not fetched, or damaged.
    """
    if config.is_embedded:
        return _digits()
    if config.name == "folder":
        if config.data_dir is None:
            raise DataError(_no_own_images(option))
        root = config.data_dir.expanduser()
        _check_layout(root, option)
        return _folder(root, None, config.image_size)
    data_dir = (config.data_dir or default_data_dir(option)).expanduser()
    opened = _open_public(config.name, data_dir)
    if opened is not None:
        return opened
    reason = "downloads are off"
    if download is not None:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DataError(
                f"the folder for data set '{config.name}' cannot be made "
                f"({one_line(e, 100)}); {_give(option)} that you may write to"
            ) from e
        try:
            download(config.name, data_dir)
        except (OSError, RuntimeError) as e:
            reason = f"the download failed ({one_line(e, 100)})"
        else:
            reason = "the download left no such files"
            opened = _open_public(config.name, data_dir)
            if opened is not None:
                return opened
    online = "" if option == NODE_OPTION else "go online, or "  # a node fetches none
    raise DataError(
        f"data set '{config.name}' is not at {_expected(config.name, data_dir)} and "
        f"{reason}; {online}{_give(option)} with these files"
    )


def _no_own_images(option: str) -> str:
    if option != NODE_OPTION:
        return DATA_DIR_MISSING
    return (
        "the release is of images that only its cloud has (data set 'folder'); "
        f"{_give(option)}, a copy of the cloud's folder with train/CLASS/IMAGE"
    )


def _give(option: str, folder: str | Path = "DIR") -> str:
    """Say how a folder is named by an option of a verb, or a key of edge.toml."""
    if option == NODE_OPTION:
        return f'set {option} "{folder}" in edge.toml'
    return f"give {option} {folder}"


def _expected(name: str, data_dir: Path) -> str:
    if name == "cifar10":
        return f"{data_dir}/cifar-10-batches-py or {data_dir}/cifar10/train/CLASS"
    return f"{data_dir}/{_TORCHVISION[name]}/raw/train-images-idx3-ubyte[.gz]"


def _open_public(name: str, data_dir: Path) -> Sources | None:
    if name != "cifar10":
        return _mnist(name, data_dir / _TORCHVISION[name] / "raw")
    if is_folder(data_dir / "cifar10" / "train"):
        return _folder(data_dir / "cifar10", CLASS_NAMES[name], Form("RGB", 32))
    if is_folder(data_dir / "cifar-10-batches-py"):
        return _cifar_batches(data_dir)
    return None


def _digits() -> Sources:
    images, labels = read_digits()
    everything = _in_memory(images, labels)
    return Sources(CLASS_NAMES["digits"], everything, None, 360 / 1797)


def _mnist(name: str, raw: Path) -> Sources | None:
    parts = []
    for part in ("train", "t10k"):
        found = []
        for stem, ndim in (("images-idx3", 3), ("labels-idx1", 1)):
            path = raw / f"{part}-{stem}-ubyte"
            if not is_there(path):
                path = path.with_name(path.name + ".gz")
            if not is_there(path):
                return None
            found.append((path, read_idx(path, ndim=ndim)))
        (image_path, images), (label_path, labels) = found
        if len(images) != len(labels):
            raise DataError(
                f"{image_path} holds {len(images)} images and {label_path.name} "
                f"{len(labels)} labels, expected the same; fetch both again"
            )
        if labels.size and labels.max() > 9:
            raise DataError(
                f"{label_path} has label {labels.max()}, expected at most 9; "
                "fetch it again"
            )
        parts.append(_in_memory(images[:, None], labels))
    return Sources(CLASS_NAMES[name], parts[0], parts[1])


def _cifar_batches(data_dir: Path) -> Sources:
    import torchvision.datasets

    parts = []
    for train in (True, False):
        try:
            # torchvision checks the MD5 of each batch before it unpickles it.
            part = torchvision.datasets.CIFAR10(str(data_dir), train=train)
        except (OSError, RuntimeError) as e:
            raise DataError(
                f"{data_dir}/cifar-10-batches-py is incomplete or damaged; delete it "
                "and fetch it again"
            ) from e
        images = np.asarray(part.data, np.uint8).transpose(0, 3, 1, 2)
        parts.append(_in_memory(images, np.asarray(part.targets)))
    return Sources(CLASS_NAMES["cifar10"], parts[0], parts[1])


def _folder(
    root: Path, class_names: tuple[str, ...] | None, form: Form | int | None
) -> Sources:
    tree = scan_tree(root / "train", class_names)
    missing = [
        name for k, name in enumerate(tree.class_names) if not (tree.labels == k).any()
    ]
    if missing:
        raise DataError(
            f"{root / 'train'} lacks class folders: {', '.join(missing)}; "
            "unpack it again"
        )
    if not isinstance(form, Form):
        form = common_form(tree.paths, form)
    train = _files(tree, form)
    notes = describe_unused(root, tree.class_names)
    notes += describe_oddities(tree, root / "train")
    check_links([root / "test"])
    if not is_folder(root / "test"):
        return Sources(tree.class_names, train, None, 0.2, notes)
    test = scan_tree(root / "test", tree.class_names)
    notes += describe_oddities(test, root / "test")
    return Sources(tree.class_names, train, _files(test, form), notes=notes)


def _check_layout(root: Path, option: str) -> None:
    """Refuse class folders that lie one level too high or too low, with the fix."""
    if not is_folder(root) or is_folder(root / "train"):
        return
    if root.name in ("train", "test") and holds_classes(root):
        raise DataError(
            f"{root} is the folder of a part, expected the one that holds train/; "
            f"{_give(option, root.parent)}"
        )
    if holds_classes(root):
        raise DataError(
            f"{root} holds class folders, expected them in {root}/train; "
            f"cd {root} && mkdir train && mv CLASS ... train/, for each class"
        )
    inner = [p for p in visible(root) if is_folder(p / "train")]
    if inner:
        raise DataError(
            f"{root} has no train/, but {inner[0]} has; {_give(option, inner[0])}"
        )


def _files(tree: Tree, form: Form) -> Source:
    """Shuffle a tree's images into one fixed order.

    The first n of them are then a sample of all classes, as in the public sets; in the
    order of the folders they would be of one class.
    """
    files = Source(tree.labels, lambda i: read_images([tree.paths[k] for k in i], form))
    # RandomState: frozen across numpy versions, cloud and node must agree.
    return files.subset(np.random.RandomState(0).permutation(len(tree.paths)))


def _in_memory(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Source:
    return Source(labels.astype(np.int64), lambda i: images[i])
