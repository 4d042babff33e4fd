"""A release that ships its images, as a node has pulled it, and what a node has itself.

The teacher is linear, as in `distill_site`; the starting weights are of a student that
was trained on the cloud's images for a moment.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distill_site import EPS, recipe
from numpy.typing import NDArray
from PIL import Image
from release_drafts import draft, shard_of

from common.config import DatasetConfig
from common.data.datasets import Split, load_dataset
from common.data.views import Views, show
from common.models.files import save_model
from common.models.zoo import num_parameters
from common.records import Evaluation
from common.release import (
    Arrays,
    Manifest,
    WeightsInfo,
    encode_manifest,
    encode_shard,
    image_arrays,
    quantize_rows,
    student_card,
)
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.task import Task

CLOUD = DatasetConfig(name="digits", limit=700)
NUM_RELEASED, NUM_VAL, NUM_VIEWS = 150, 60, 2


def write_transfer_release(folder: Path, *, weights: bool = True) -> Path:
    """Write a release of 150 digits, two views of each, and return its folder."""
    dataset = load_dataset(CLOUD, seed=0)
    x = dataset.train.images.reshape(len(dataset.train), -1) / 255 - 0.5
    hot = np.eye(10)[dataset.train.labels]
    linear = np.linalg.solve(x.T @ x + 10 * np.eye(64), x.T @ (hot - 0.1))
    images = dataset.train.images[:NUM_RELEASED]
    labels = dataset.train.labels[:NUM_RELEASED]
    views = Views.draw(NUM_RELEASED, NUM_VIEWS, shift=1, flip=False, seed=0)
    val = image_arrays(dataset.val.images[:NUM_VAL], dataset.val.labels[:NUM_VAL], 10)
    contents: list[tuple[str, int, Arrays]] = [
        ("images", 0, image_arrays(images, labels, 10)),
        ("val_images", 0, val),
    ]
    for view in range(NUM_VIEWS):
        shown = shown_view(images, views, view).reshape(NUM_RELEASED, -1)
        logits = 20 * (shown / 255 - 0.5) @ linear
        data, scale = quantize_rows(logits.astype(np.float32))
        contents.append(("soft_labels", view, {"logits": data, "logits_scale": scale}))
    shards = []
    for content, view, arrays in contents:
        encoded = encode_shard(arrays)
        number = len(val["labels"]) if content == "val_images" else NUM_RELEASED
        shard = shard_of(content, encoded, num_samples=number)
        name = f"{content}-{view}.safetensors"
        (folder / name).write_bytes(encoded)
        path = f"digits/1/{name}"
        shards.append(shard.model_copy(update={"path": path, "view": view}))
    manifest = draft(
        fingerprint=Split(images, labels).fingerprint(),
        num_samples=NUM_RELEASED,
        num_val=len(val["labels"]),
        images="transfer",
        source="digits",
        eps=EPS,
        temperature=2.0,
        num_views=NUM_VIEWS,
        shift=1,
        limit=CLOUD.limit,
        students={"tiny": student(), "adaad": student(method="adaad")},
        node_attack_steps=5,
        node_attack_step_size=0.05,
        shards=tuple(shards),
    )
    if weights:
        info = _weights(folder, manifest)
        manifest = manifest.model_copy(update={"weights": {"tiny": info}})
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def student(**changes: Any) -> Any:
    """Give the recipe of this release's student."""
    values = {"num_views": NUM_VIEWS, "own_views": 3, "label_weight": 0.3}
    return recipe(**{**values, **changes})


def shown_view(images: NDArray[np.uint8], views: Views, view: int) -> NDArray[np.uint8]:
    rows = torch.arange(len(images))
    index = views.index(rows, torch.full_like(rows, view), *images.shape[2:])
    shown: NDArray[np.uint8] = show(
        torch.from_numpy(images), index, views.shift
    ).numpy()
    return shown


def _weights(folder: Path, manifest: Manifest) -> WeightsInfo:
    dataset = load_dataset(CLOUD, seed=0)
    task = Task(
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        num_classes=10,
        eps=EPS,
    )
    how = recipe(method="warm_at", epochs=8)
    model = fit_student(how, task).model
    card = student_card(manifest, student(), seed=0)
    path = folder / "weights-tiny.safetensors"
    sha256 = save_model(path, model.half(), card)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return WeightsInfo(
        path=f"digits/1/{path.name}",
        num_bytes=path.stat().st_size,
        sha256=sha256,
        architecture="cnn_tiny",
        num_parameters=num_parameters(model),
        clean_accuracy=0.5,
        robust=Evaluation(
            attack="pgd",
            version="5 steps",
            norm="Linf",
            eps=EPS,
            num_images=NUM_VAL,
            accuracy=0.5,
            seed=0,
        ),
    )


def changed_release(release: Path, folder: Path, manifest: Manifest) -> Path:
    """Copy a release with another manifest."""
    folder.mkdir()
    for path in release.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def own_folder(
    folder: Path, num_images: int = 100, *, unlabelled: int = 0, rename: int = 0
) -> Path:
    """Write digits that the cloud left out as class folders.

    Args:
        folder: to make.
        num_images: of all ten classes.
        unlabelled: how many of these lie in unlabelled/.
        rename: added to each label: folders that are named wrongly.
    """
    from common.data.datasets import open_left_out

    source = open_left_out(CLOUD, seed=0)
    images = source.read(np.arange(num_images))
    for k, image in enumerate(images):
        label = (int(source.labels[k]) + rename) % 10
        place = folder / ("unlabelled" if k < unlabelled else str(label))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(place / f"{k}.png")
    return folder
