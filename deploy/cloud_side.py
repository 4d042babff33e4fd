"""The cloud side, composed once: Ray, stage 1 and the gateway of a storage folder.

`takt simulate` and `takt cloud` (`run`, and each step alone) call these functions in
their own order. A step does not repeat what its storage folder already holds. Not
here: the steps themselves (the wings of cloud/), and what the user sees of them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.storage import StorageDir
from common.config import RunConfig
from common.effective_limits import usable_cores
from common.model_names import is_packaged
from common.release import MAX_WEIGHTS_BYTES, Manifest, TeacherCard
from deploy.runtime.exits import arm_signals, interrupt_code
from deploy.runtime.settings import refuse_unread_views
from deploy.runtime.surroundings import require_room_for_ray

# Ray and Ray Train take seconds to import; each step imports what it uses.
if TYPE_CHECKING:
    from cloud.gateway.addresses import Addresses
    from common.data.datasets import Dataset


@contextmanager
def cluster(
    config: RunConfig, *, logs: Path, address: str | None = None
) -> Iterator[str]:
    """Connect to a Ray cluster, or start a local one that fits the config.

    Args:
        config: of the run; a local Ray gets a slot for each worker and actor.
        logs: takes a local Ray's logs.
        address: of a cluster that runs; None: start a local one.

    Yields:
        The cluster's address.

    Raises:
        ClusterError: Ray did not start, or cannot be reached.
        CapError: addresses or processes are too limited for that.
    """
    from cloud.cluster.local import connect, local_cluster

    require_room_for_ray()

    try:
        if address:
            with connect(address):
                arm_signals()
                yield address
        else:
            slots = max(config.teacher.num_workers, config.knowledge.num_actors)
            with local_cluster(logs, num_cpus=max(slots, usable_cores())) as local:
                arm_signals()
                yield local.address
    finally:
        arm_signals()  # Ray removes all handlers when it ends


def train(
    config: RunConfig,
    storage: StorageDir,
    update: Callable[[str], None] = lambda line: None,
) -> TeacherCard:
    """Train the teacher, or choose one where the config has candidates.

    Args:
        config: of the run.
        storage: the cloud side's folder.
        update: called with a line for each candidate.

    Raises:
        ConfigError: a model of a package is not what takt asks of one, or is too large
            to ship.
        TaktError: as `deploy.selection.teacher.make_teacher`.
    """
    from deploy.selection.teacher import make_teacher

    check_models(config)
    try:
        return make_teacher(config, storage, update)
    finally:
        arm_signals()  # Ray Train installs handlers of its own


def check_models(config: RunConfig) -> None:
    """Check all models of packages that a config names, before any is trained.

    Raises:
        ConfigError: one cannot be built for the images, is not what takt asks of a
            model, or is too large to ship its starting weights.
        DataError: the images are missing or damaged.
    """
    teachers = [config.teacher.model]
    if config.choice is not None:
        teachers += [c.model for c in config.choice.candidates.values() if c.model]
    students = [recipe.model for recipe in config.students.values()]
    names = sorted({name for name in (*teachers, *students) if is_packaged(name)})
    if not names:
        return
    from common.data.datasets import load_dataset
    from common.models.contract import check_contract

    dataset = load_dataset(config.dataset, seed=config.seed)
    channels, size, _ = dataset.sample_shape
    most = MAX_WEIGHTS_BYTES if config.knowledge.weights else None
    for name in names:
        check_contract(
            name,
            in_channels=channels,
            image_size=size,
            num_classes=dataset.num_classes,
            most_bytes=most if name in students else None,
        )


def check_extractable(config: RunConfig, storage: StorageDir) -> None:
    """Check, before Ray is started, that there is what `extract` reads.

    Raises:
        ConfigError: the teacher was trained with other options, or views would be
            labelled that no student reads.
        DataError: the user's own images are missing or unusable.
        StorageError: there is no teacher.
    """
    from cloud.training.teacher_files import check_teacher_options

    refuse_unread_views(config)
    storage.check_teacher()
    check_teacher_options(config, storage)
    check_images(config)


def check_images(config: RunConfig) -> None:
    """Check a user's own images, before anything is started; reads no pixels.

    Public data sets are fetched, and checked, where they are used first.

    Raises:
        DataError: they are missing or unusable.
    """
    from common.data.sources import open_sources

    if config.dataset.name == "folder":
        open_sources(config.dataset, None)


def extract(config: RunConfig, storage: StorageDir) -> Path:
    """Extract the teacher's knowledge; return the folder of its shards.

    Raises:
        ConfigError: the teacher was trained with other options.
        TaktError: as `cloud.extraction.job.extract_knowledge`.
    """
    from cloud.extraction.job import extract_knowledge
    from cloud.training.teacher_files import check_teacher_options

    check_teacher_options(config, storage)
    return extract_knowledge(config, storage)


def distil_weights(
    config: RunConfig,
    storage: StorageDir,
    update: Callable[[str], None] = lambda line: None,
) -> None:
    """Distil the starting weights of each recipe, where the config ships some.

    Args:
        config: of the run.
        storage: the cloud side's folder.
        update: called with a line for each student that was distilled.

    Raises:
        TaktError: as `deploy.starting_weights.make_starting_weights`.
    """
    from deploy.starting_weights import make_starting_weights

    if config.knowledge.weights:
        make_starting_weights(config, storage, update)


def publish(
    config: RunConfig,
    storage: StorageDir,
    dataset: "Dataset | None" = None,
    *,
    force: bool = False,
    unsigned: Path | None = None,
) -> Manifest:
    """Sign what was extracted as the channel's new release.

    Args:
        config: of the run.
        storage: the cloud side's folder.
        dataset: of the config, where it is loaded already.
        force: publish a new version even if nothing is new.
        unsigned: see `ReleaseRepository.publish`.

    Raises:
        ConfigError: the teacher was trained, or the knowledge extracted, with other
            options.
        TaktError: as `deploy.starting_weights.starting_weights` and
            `cloud.publishing.publish.publish_release`.
    """
    from cloud.extraction.recipe import check_knowledge
    from cloud.publishing.publish import publish_release
    from cloud.training.teacher_files import check_teacher_options
    from common.data.datasets import load_dataset
    from deploy.starting_weights import starting_weights

    check_teacher_options(config, storage)
    if dataset is None:
        dataset = load_dataset(config.dataset, seed=config.seed)
    fingerprint = dataset.train.fingerprint()
    check_knowledge(config, storage, fingerprint)
    weights = starting_weights(config, storage, fingerprint)
    return publish_release(
        config, storage, dataset, weights=weights, force=force, unsigned=unsigned
    )


def has_release(config: RunConfig, storage: StorageDir) -> bool:
    """Tell whether the config's channel has a release.

    Raises:
        StorageError: the repository is damaged.
    """
    from cloud.publishing.repository import ReleaseRepository

    repository = ReleaseRepository(storage.repository, storage.keys)
    if not storage.repository.exists():
        return False
    return config.channel in repository.versions()


def start_gateway(config: RunConfig, storage: StorageDir) -> "Addresses":
    """Start the gateway on the connected Ray, with a live teacher where one is used.

    Raises:
        TaktError: as `cloud.gateway.ray_serve.start_gateway`.
    """
    from cloud.gateway import ray_serve
    from cloud.gateway.live_teacher import is_wanted

    return ray_serve.start_gateway(
        config.gateway,
        storage,
        channel=config.channel,
        live_teacher=is_wanted(config),
    )


def end_gateway(starting: "Future[str] | None" = None) -> None:
    """Drain and stop the gateway; with little patience when this process is to end.

    Args:
        starting: its start in another thread, which is waited for: Ray must not end
            while Serve starts on it.
    """
    from cloud.cluster.asking import answers
    from cloud.gateway.ray_serve import stop_gateway

    hurry = interrupt_code() is not None
    for _ in range(10 if hurry else 600):
        if starting is None or starting.done() or not answers():
            break
        wait([starting], 0.2)
    stop_gateway(limit_s=3.0 if hurry else 60.0)


@contextmanager
def gateway(config: RunConfig, storage: StorageDir) -> "Iterator[Addresses]":
    """Serve the storage folder for the body; see `start_gateway`."""
    addresses = start_gateway(config, storage)
    try:
        yield addresses
    finally:
        end_gateway()
