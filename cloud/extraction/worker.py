"""One actor of the extraction: holds teacher and data set, and writes shards.

A plain class, so that it runs without Ray as well; torch is imported at the first call,
in the actor's process. Not here: distributing the samples (`cloud.extraction.job`),
what is computed of each (`cloud.extraction.block`).
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud.publishing.transfer_set import released_images
from cloud.storage import StorageDir
from common.catalog import Content
from common.config import RunConfig
from common.data.datasets import load_dataset
from common.durable import write_atomic
from common.errors import DataError
from common.release import Arrays, ShardInfo, encode_shard

if TYPE_CHECKING:
    from common.data.datasets import Dataset

# Seeds go with these, so that shards may be cut anywhere between them.
BLOCK_SAMPLES = 256


class Extractor:
    """Holds teacher and data set in one process, and writes shards; a Ray actor."""

    def __init__(
        self, run: str, storage: str, dataset: "Dataset | None" = None
    ) -> None:
        """Keep the paths; the first call loads teacher and data.

        Not here, because Ray reports of an actor that fails in its constructor only
        that it died.

        Args:
            run: the run's config, JSON.
            storage: the folder with the teacher; takes the knowledge.
            dataset: the run's, where it is loaded already.
        """
        self.config = RunConfig.model_validate_json(run)
        self.storage = StorageDir(Path(storage))
        self._dataset = dataset
        self._loaded = False

    def _load(self) -> None:
        import torch

        from common.models.files import load_model

        torch.set_num_threads(1)
        self.device = torch.device("cpu")
        if self.config.teacher.use_gpu and torch.cuda.is_available():
            self.device = torch.device("cuda")
        dataset = self._dataset or load_dataset(
            self.config.dataset, seed=self.config.seed
        )
        model, card = load_model(self.storage.weights)
        found = dataset.train.fingerprint()
        if card.fingerprint != found:
            raise DataError(
                f"the teacher was trained on split {card.fingerprint[:12]}, the data "
                f"set gives {found[:12]}; train it again or restore the data"
            )
        self.model = model.to(self.device)
        self.x, self.y = released_images(self.config, dataset).tensors()
        self._loaded = True

    def extract(self, first: int, stop: int) -> list[dict[str, Any]]:
        """Write one shard a content for samples [first, stop); describe them.

        Of soft labels one a view. The shards of view 0 are those of a release
        without views.

        Raises:
            DataError: teacher and data set do not belong together.
            StorageError: the teacher cannot be read, or a shard not written.
        """
        from cloud.extraction.block import extract_block

        if not self._loaded:
            self._load()
        blocks = []
        for start in range(first, stop, BLOCK_SAMPLES):
            rows = slice(start, min(start + BLOCK_SAMPLES, stop))
            blocks.append(
                extract_block(
                    self.model,
                    self.x[rows].to(self.device),
                    self.y[rows].to(self.device),
                    config=self.config.knowledge,
                    eps=self.config.threat.eps,
                    seed=self.config.seed * 1_000_003 + 2 * start,
                )
            )
        infos = [
            self._write(content, first, stop - first, _joined(content, blocks))
            for content in self.config.knowledge.contents
        ]
        if "soft_labels" in self.config.knowledge.contents:
            infos += self._label_views(first, stop)
        return infos

    def _label_views(self, first: int, stop: int) -> list[dict[str, Any]]:
        """Write the soft labels of all views but the first, a shard each."""
        import torch

        from cloud.extraction.block import view_labels
        from common.data.views import Views, show

        knowledge = self.config.knowledge
        views = Views.draw(
            stop - first,
            knowledge.num_views,
            shift=knowledge.shift,
            flip=knowledge.flip,
            seed=self.config.seed,
            first=first,
        )
        infos = []
        for view in range(1, knowledge.num_views):
            blocks: list[dict[Content, Arrays]] = []
            for start in range(first, stop, BLOCK_SAMPLES):
                x = self.x[start : min(start + BLOCK_SAMPLES, stop)]
                samples = torch.arange(len(x)) + (start - first)
                which = torch.full_like(samples, view)
                index = views.index(samples, which, *x.shape[2:])
                shown = show(x, index, views.shift).to(self.device)
                blocks.append({"soft_labels": view_labels(self.model, shown)})
            arrays = _joined("soft_labels", blocks)
            infos.append(self._write("soft_labels", first, stop - first, arrays, view))
        return infos

    def _write(
        self, content: Content, first: int, count: int, arrays: Arrays, view: int = 0
    ) -> dict[str, Any]:
        data = encode_shard(arrays)
        of_view = f"-view{view}" if view else ""
        name = f"{content}{of_view}-{first}.safetensors"
        write_atomic(self.storage.knowledge / name, data)
        return ShardInfo(
            path=name,
            content=content,
            view=view,
            first=first,
            num_samples=count,
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        ).model_dump()


def _joined(content: Content, blocks: list[dict[Content, Arrays]]) -> Arrays:
    names = blocks[0][content]
    return {name: np.concatenate([b[content][name] for b in blocks]) for name in names}
