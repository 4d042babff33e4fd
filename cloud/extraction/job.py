"""The teacher's knowledge of a release's samples, extracted by Ray actors.

Each actor takes ranges of samples and writes their shards itself; the driver only
counts. The result does not depend on the number of actors, or on which took what. Not
here: which samples these are (`cloud.publishing.transfer_set`), what is computed of one
(`cloud.extraction.block`), signatures and versions (`cloud.publishing.publish`).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from cloud.cluster.asking import ask
from cloud.cluster.driver import (
    errors_as_ours,
    gpus_each,
    require_cluster,
    with_absolute_paths,
)
from cloud.extraction.image_shards import write_images
from cloud.extraction.recipe import recipe_of
from cloud.extraction.worker import BLOCK_SAMPLES, Extractor
from cloud.publishing.transfer_set import released_images
from cloud.storage import StorageDir
from common.catalog import Content
from common.config import RunConfig
from common.data.datasets import load_dataset
from common.durable import write_atomic
from common.release import ShardInfo, samples_per_shard

_END_S = 4.0


def extract_knowledge(config: RunConfig, storage: StorageDir) -> Path:
    """Write the knowledge of a storage folder's teacher.

    Done at once when it is there already, of the same teacher and config.

    Args:
        config: of the run; [knowledge], [dataset], [threat] and seed decide.
        storage: with the teacher, as `train_teacher` left it.

    Returns:
        Its folder knowledge/: shards, those of shipped images too, index.json (their
        `ShardInfo`s, the path being the file's name) and progress.jsonl (samples done
        of how many).

    Raises:
        ClusterError: the actors failed for good, or no cluster is connected.
        DataError: the teacher was trained on another split.
        StorageError: the teacher is missing or damaged.
    """
    storage = storage.resolve()
    folder = storage.knowledge
    dataset = load_dataset(config.dataset, seed=config.seed)
    recipe = recipe_of(config, storage, dataset.train.fingerprint())
    if storage.knowledge_index.exists() and _read(storage.knowledge_recipe) == recipe:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    storage.create(folder)
    actors = config.knowledge.num_actors
    num_samples = len(released_images(config, dataset))
    ranges = shard_ranges(
        num_samples,
        config.knowledge.contents,
        dataset.sample_shape,
        dataset.num_classes,
        parts=actors,
    )
    config = with_absolute_paths(config)
    shards = write_images(config, dataset, storage)
    shards += _run_actors(config, storage, ranges, num_samples)
    shards.sort(key=lambda s: (s.content, s.first))
    index = [shard.model_dump(mode="json") for shard in shards]
    write_atomic(storage.knowledge_recipe, recipe.encode())
    write_atomic(storage.knowledge_index, json.dumps(index, indent=1).encode())
    return folder


def shard_ranges(
    num_samples: int,
    contents: tuple[Content, ...],
    sample_shape: tuple[int, int, int],
    classes: int,
    *,
    parts: int,
) -> list[range]:
    """Cut the samples into ranges: whole blocks, one shard a content each.

    Args:
        num_samples: to cover.
        contents: each of a range must fit one shard.
        sample_shape: (C, H, W).
        classes: number of logits.
        parts: at least so many ranges, where there are blocks enough.
    """
    sizes = [samples_per_shard(c, sample_shape, classes) for c in contents]
    fits = min(sizes, default=num_samples)  # of no content: no shard, and no bound
    share = -(-num_samples // parts)
    step = min(
        -(-share // BLOCK_SAMPLES) * BLOCK_SAMPLES,
        # Of images so large that a block is too much for a shard: what fits.
        fits // BLOCK_SAMPLES * BLOCK_SAMPLES or fits,
    )
    starts = range(0, num_samples, step)
    return [range(first, min(first + step, num_samples)) for first in starts]


def _run_actors(
    config: RunConfig, storage: StorageDir, ranges: list[range], total: int
) -> list[ShardInfo]:
    """Give each actor one range at a time, and collect the shards."""
    import ray

    require_cluster()
    num_actors = min(config.knowledge.num_actors, len(ranges))
    gpus = gpus_each(num_actors, use_gpu=config.teacher.use_gpu)
    actor: Any = ray.remote(Extractor)
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 2}
    pool = [
        actor.options(max_task_retries=2, **options).remote(
            config.model_dump_json(), str(storage.root)
        )
        for _ in range(num_actors)
    ]
    waiting, done = list(reversed(ranges)), 0
    busy: dict[Any, tuple[Any, range]] = {}
    shards: list[ShardInfo] = []
    idle = list(pool)
    try:
        with errors_as_ours("extraction"):
            while waiting or busy:
                while waiting and idle:
                    worker, samples = idle.pop(), waiting.pop()
                    job = worker.extract.remote(samples.start, samples.stop)
                    busy[job] = worker, samples
                (ready, *_), _ = ray.wait(list(busy), num_returns=1)
                worker, samples = busy.pop(ready)
                shards += [ShardInfo.model_validate(s) for s in ray.get(ready)]
                idle.append(worker)
                done += len(samples)
                with storage.knowledge_progress.open("a") as file:
                    file.write(json.dumps({"done": done, "total": total}) + "\n")
    finally:
        ask(lambda: [ray.kill(worker) for worker in pool], limit_s=_END_S)
    return shards


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
