"""A cloud and its nodes with images of their own, in one process, for a bench.

The cloud has the training images of a config (`dataset.limit`), nodes draw theirs from
what that leaves out. What the cloud would release is made here as it is released: int8
logits of each view, packed images, fp16 weights; what a node would ask the gateway for
is the same teacher's logits in fp16. Not here: which nodes there are, and the rows.
"""

import argparse
import hashlib
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.storage import StorageDir
from cloud.training.images import for_teacher
from cloud.training.teacher_card import write_teacher
from cloud.training.teacher_files import finished_teacher, teacher_digest
from common.config import RunConfig, StudentConfig
from common.data.datasets import (
    Dataset,
    Split,
    load_dataset,
    open_left_out,
    stratified,
)
from common.data.sources import Source
from common.data.views import Views, show
from common.models.card import ModelCard
from common.models.files import load_model, save_model
from common.models.zoo import num_parameters
from common.release import dequantize_rows, encode_shard, quantize_rows
from common.release.images import image_arrays
from deploy.compare.teacher import train_here
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.knowledge import Knowledge
from edge.distill.sources.joined import OwnKnowledge, joined
from edge.distill.task import Task

SHIFT = {"mnist": 2, "fashion-mnist": 1, "digits": 1, "cifar10": 4}  # pixels
FLIP = {"fashion-mnist": True, "cifar10": True}
CLOUD_VIEWS = 4  # of each image, from which starting weights are distilled
_PART = 2048  # images that the teacher sees at a time


@dataclass(frozen=True)
class Known:
    """Some images and what is known of them."""

    images: Images
    views: Views
    soft_labels: Tensor | None  # (N, V, K); None: the teacher was not asked


def site_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of what `Site.of_options` reads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config")
    parser.add_argument("--work", type=Path, default=Path("runs/own-images"))
    parser.add_argument("--teacher", type=Path, help="a storage folder that has it")
    parser.add_argument("--data-dir")
    return parser


@dataclass(frozen=True)
class Site:
    """One data set's cloud."""

    config: RunConfig
    data: Dataset
    folder: Path  # of the teacher and of starting weights

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> "Site":
        """Open the site of a command line; this process computes on one thread."""
        overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
        config, _ = load_run_config(options.config, overrides)
        torch.set_num_threads(1)
        return cls.open(config, options.work, options.teacher)

    @classmethod
    def open(cls, config: RunConfig, work: Path, given: Path | None = None) -> "Site":
        """Train the teacher, unless the folder has it.

        Args:
            config: of the run.
            work: takes a folder of the site.
            given: a storage folder with the finished one; None: train it.
        """
        name = config.dataset.name
        teacher = config.teacher.model_copy(update={"shift": SHIFT[name]})
        config = config.model_copy(update={"teacher": teacher})
        folder = work / f"{name}-{teacher_digest(config)}"
        site = cls(config, load_dataset(config.dataset, seed=config.seed), folder)
        if given is not None:
            shutil.copytree(given, folder, dirs_exist_ok=True)
        if finished_teacher(config, StorageDir(folder)) is None:
            site.folder.mkdir(parents=True, exist_ok=True)
            images = for_teacher(config, site.data)
            run = train_here(config, images, site.folder, lambda step, share: None)
            write_teacher(config, site.data, run, site.folder)
        return site

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher."""
        return load_model(self.folder / "teacher.safetensors")[0]

    def transfer(self, count: int, num_views: int, *, seed: int) -> Known:
        """Release some of the cloud's images, stratified, with their views labelled."""
        labels = self.data.train.labels
        chosen = stratified(labels, count / len(labels), seed=seed)
        split = Split(self.data.train.images[chosen], labels[chosen])
        return self.taught(split, num_views, seed=seed, shipped=True)

    def taught(
        self, split: Split, num_views: int, *, seed: int, shipped: bool
    ) -> Known:
        """Let the teacher label the views of images."""
        plain = self.plain(split, num_views, seed=seed)
        logits = np.stack(
            [self._logits(plain, view) for view in range(num_views)], axis=1
        )
        if shipped:
            flat = logits.reshape(-1, logits.shape[-1])
            logits = dequantize_rows(*quantize_rows(flat)).reshape(logits.shape)
        else:
            logits = logits.astype(np.float16).astype(np.float32)
        soft = torch.softmax(
            torch.from_numpy(logits) / self.config.knowledge.temperature, -1
        )
        return replace(plain, soft_labels=soft)

    def plain(self, split: Split, num_views: int, *, seed: int) -> Known:
        """Draw the views of images that no teacher labels."""
        name = self.config.dataset.name
        views = Views.draw(
            len(split),
            num_views,
            shift=SHIFT[name],
            flip=FLIP.get(name, False),
            seed=seed,
        )
        return Known(Images.of(split), views, None)

    def weights(self, recipe: StudentConfig, *, seed: int) -> nn.Module:
        """Distil a recipe's starting weights from all of the cloud's images."""
        path = self._weights(recipe, seed)
        if path.exists():
            return load_model(path)[0]
        torch.set_num_threads(1)
        train = self.taught(self.data.train, CLOUD_VIEWS, seed=seed, shipped=False)
        recipe = recipe.model_copy(update={"num_views": CLOUD_VIEWS})
        model = fit_student(recipe, self.task(train, None, seed=seed)).model
        model = model.half().float()  # as they are shipped
        save_model(path, model, self._card(recipe, seed))
        return model

    def weights_digest(self, recipe: StudentConfig, *, seed: int) -> str:
        """Digest the file of starting weights, as a row names it."""
        self.weights(recipe, seed=seed)
        data = self._weights(recipe, seed).read_bytes()
        return hashlib.sha256(data).hexdigest()[:12]

    def _weights(self, recipe: StudentConfig, seed: int) -> Path:
        own = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]
        return self.folder / f"{recipe.model}-{own}-{seed}.safetensors"

    def _card(self, recipe: StudentConfig, seed: int) -> ModelCard:
        channels, size, _ = self.data.sample_shape
        return ModelCard(
            architecture=recipe.model,
            in_channels=channels,
            image_size=size,
            num_classes=self.data.num_classes,
            class_names=self.data.class_names,
            dataset=self.data.name,
            fingerprint=self.data.train.fingerprint(),
            eps=self.config.threat.eps,
            seed=seed,
            val_fraction=self.config.dataset.val_fraction,
            limit=self.config.dataset.limit,
            method=recipe.method,
        )

    def release_bytes(self, released: Known) -> int:
        """Count the bytes of packed images and of int8 logits of their views."""
        x, y = released.images.x.numpy(), released.images.y.numpy()
        num_classes = self.data.num_classes
        images = len(encode_shard(image_arrays(x, y, num_classes)))
        assert released.soft_labels is not None
        num_rows = released.soft_labels.shape[0] * released.soft_labels.shape[1]
        return images + num_rows * (num_classes + 2)  # and a scale in float16

    def weight_bytes(self, recipe: StudentConfig, *, seed: int) -> int:
        """Count the bytes of starting weights in fp16."""
        return 2 * num_parameters(self.weights(recipe, seed=seed))

    def own_images(
        self, count: int, *, seed: int, classes: tuple[int, ...] = ()
    ) -> Split:
        """Draw a node's images from those that the teacher did not learn from."""
        train, dataset = self.data.train, self.config.dataset
        if self.config.teacher.images == "others":
            pool = Source(train.labels, lambda at: train.images[at])
        else:
            pool = open_left_out(dataset, seed=self.config.seed, download=None)
        if classes:
            pool = pool.subset(np.flatnonzero(np.isin(pool.labels, classes)))
        share = count / len(pool.labels)
        chosen = stratified(pool.labels, share, seed=1000 + seed)
        return Split(pool.read(chosen), pool.labels[chosen])

    def task(
        self,
        released: Known | None,
        own: Known | None,
        *,
        seed: int,
        start: nn.Module | None = None,
    ) -> Task:
        """Describe a training on both, one or the other."""
        parts = [part for part in (released, own) if part is not None]
        train = Images(
            torch.cat([part.images.x for part in parts]),
            torch.cat([part.images.y for part in parts]),
        )
        num_released = 0 if released is None else len(released.images.y)
        knowledge = Knowledge(
            temperature=self.config.knowledge.temperature,
            soft_labels=None if released is None else released.soft_labels,
            views=None if released is None else released.views,
        )
        if own is not None and released is not None:
            knowledge = joined(
                knowledge,
                num_released,
                OwnKnowledge(len(own.images.y), own.views, self._logits_of(own)),
            )
        elif own is not None:
            knowledge = replace(knowledge, soft_labels=own.soft_labels, views=own.views)
        return Task(
            train=train,
            num_released=num_released or None,
            val=Images.of(self.data.val),
            knowledge=knowledge,
            num_classes=self.data.num_classes,
            eps=self.config.threat.eps,
            seed=seed,
            start=None if start is None else start.state_dict(),
        )

    def _logits_of(self, own: Known) -> Tensor | None:
        """Give logits of which some images' soft labels are the softened ones."""
        if own.soft_labels is None:
            return None
        return own.soft_labels.log() * self.config.knowledge.temperature

    def _logits(self, known: Known, view: int) -> NDArray[np.float32]:
        x, found = known.images.x, []
        height, width = x.shape[2:]
        for at in torch.split(torch.arange(len(x)), _PART):
            where = torch.full_like(at, view)
            index = known.views.index(at, where, height, width)
            pixels = show(x[at].float().div_(255), index, known.views.shift)
            with torch.no_grad():
                found.append(self.teacher(pixels).numpy())
        return np.concatenate(found)
