"""Class folders of small images, and the data set that is read from one."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import DatasetConfig
from common.data.datasets import Dataset, load_dataset


def write_tree(
    root: Path, classes: dict[str, int], *, mode: str = "L", size: int = 8
) -> Path:
    random = np.random.RandomState(0)
    for name, num_images in classes.items():
        (root / name).mkdir(parents=True)
        for k in range(num_images):
            pixels = random.randint(0, 256, (size, size, len(mode))).astype(np.uint8)
            image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
            image.save(root / name / f"{k}.png")
    return root


def read_folder(root: Path, image_size: int | None = None) -> Dataset:
    config = DatasetConfig(name="folder", data_dir=root, image_size=image_size)
    return load_dataset(config, seed=0)


def save_image(path: Path, image: Image.Image, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    return path
