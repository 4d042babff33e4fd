"""`takt cloud`: stage 1 and the gateway, as a cluster job or on this machine.

`run` is train, extract, publish and serve, one after the other; each verb also works
alone on the same storage folder and does not repeat what is there. This module adds
what the user reads; not here: the steps (deploy/cloud_side.py).
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.storage import StorageDir
from common.text import counted
from deploy.cli.groups import VerbGroup
from deploy.cli.options import (
    DEFAULT_RUNS,
    DEFAULT_STORAGE,
    Address,
    Assign,
    Compare,
    Config,
    DataDir,
    Limit,
    RunsDir,
    Seed,
    Storage,
    expand,
    settings_of,
)

if TYPE_CHECKING:
    from common.config import RunConfig

app = typer.Typer(
    cls=VerbGroup,
    help="The cloud side: train, extract, publish, serve.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def run(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    serve: Annotated[bool, typer.Option(help="Serve the release at the end.")] = True,
) -> None:
    """Train, extract, publish, and serve until stopped; nodes may join at once."""
    from deploy.cloud_side import check_images

    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    folder = StorageDir(storage)
    with folder.recorded_failure():
        check_images(settings)
    with (
        folder.recorded_failure(),
        _cluster(address, folder, settings),
        _gateway(settings, folder) if serve else nullcontext(),
    ):
        _train(settings, folder)
        _extract(settings, folder)
        _publish(settings, folder)
        if serve:
            _wait()


@app.command()
def train(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
) -> None:
    """Train the teacher, or the best of [choice]; resumes what was interrupted."""
    from deploy.cloud_side import check_images

    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    check_images(settings)
    folder = StorageDir(storage)
    with _cluster(address, folder, settings):
        _train(settings, folder)


@app.command()
def extract(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
) -> None:
    """Extract the teacher's knowledge into shards, and distil starting weights."""
    from deploy.cloud_side import check_extractable

    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    folder = StorageDir(storage)
    check_extractable(settings, folder)
    with _cluster(address, folder, settings):
        _extract(settings, folder)


@app.command()
def publish(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    force: Annotated[
        bool, typer.Option("--force", help="A new version even if nothing is new.")
    ] = False,
) -> None:
    """Sign what was extracted as the channel's new release."""
    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    _publish(settings, StorageDir(storage), force=force)


@app.command()
def serve(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
) -> None:
    """Serve the repository to nodes until stopped."""
    settings, _ = settings_of(config, data_dir, limit, seed, assign)
    folder = StorageDir(storage)
    folder.check_servable()
    with _cluster(address, folder, settings), _gateway(settings, folder):
        _say_if_unpublished(settings, folder)
        _wait()


@app.command()
def check(storage: Storage = DEFAULT_STORAGE) -> None:
    """Fail unless the gateway of a storage folder answers and has nothing to mend."""
    from cloud.gateway.probe import check_gateway

    typer.echo(f"the gateway at {check_gateway(StorageDir(storage))} answers")


@app.command()
def report(
    config: Config,
    nodes_dir: Annotated[
        Path, typer.Option(callback=expand, help="Has NODE/students of each node.")
    ],
    storage: Storage = DEFAULT_STORAGE,
    runs_dir: RunsDir = DEFAULT_RUNS,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    compare: Compare = False,
) -> int:
    """Follow a job and its nodes that run elsewhere; end as `takt simulate` does."""
    settings, text = settings_of(config, data_dir, limit, seed, assign)
    StorageDir(storage.resolve()).check_there()
    from deploy.simulation.collect import collect_run

    return collect_run(
        settings,
        text,
        storage=storage.resolve(),
        nodes_dir=nodes_dir,
        runs_dir=runs_dir,
        compare=compare,
    )


def _cluster(
    address: str | None, storage: StorageDir, settings: "RunConfig"
) -> AbstractContextManager[str]:
    from deploy import cloud_side

    return cloud_side.cluster(settings, logs=storage.ray_logs, address=address)


def _train(settings: "RunConfig", storage: StorageDir) -> None:
    from common.data.datasets import dataset_notes
    from deploy import cloud_side
    from deploy.report.wording import describe, percent

    for note in dataset_notes(settings.dataset, seed=settings.seed):
        typer.echo(f"note: {note}")
    card = cloud_side.train(settings, storage, typer.echo)
    trial = " (a trial of two epochs on CPUs)" if card.trial else ""
    typer.echo(
        f"teacher {card.architecture}{trial}: clean {percent(card.clean_accuracy)} %, "
        + ", ".join(f"{percent(e.accuracy)} % ({describe(e)})" for e in card.robust)
    )


def _extract(settings: "RunConfig", storage: StorageDir) -> None:
    from deploy import cloud_side

    typer.echo(f"knowledge: {cloud_side.extract(settings, storage)}")
    cloud_side.distil_weights(settings, storage, typer.echo)


def _publish(
    settings: "RunConfig", storage: StorageDir, *, force: bool = False
) -> None:
    from deploy import cloud_side

    manifest = cloud_side.publish(settings, storage, force=force)
    trial = " (of a trial teacher)" if manifest.teacher.trial else ""
    typer.echo(
        f"channel '{manifest.channel}' is at version {manifest.version}{trial}: "
        f"{manifest.num_bytes:,} bytes, "
        f"{counted(manifest.num_samples, 'sample')}"
    )


@contextmanager
def _gateway(settings: "RunConfig", storage: StorageDir) -> Iterator[None]:
    from deploy import cloud_side

    with cloud_side.gateway(settings, storage) as addresses:
        typer.echo(
            f"serving channel '{settings.channel}' at {addresses.address}, enrolment "
            f"at {addresses.enroll_address}; nodes trust {storage.ca}"
        )
        yield


def _say_if_unpublished(settings: "RunConfig", storage: StorageDir) -> None:
    """Tell the user when the channel has nothing for its nodes."""
    from deploy import cloud_side

    if not cloud_side.has_release(settings, storage):
        typer.echo(
            f"channel '{settings.channel}' has no release yet: its nodes wait; make "
            f"one with `takt cloud run` or `takt cloud publish` on {storage.root}"
        )


def _wait() -> None:
    """Wait to be stopped; Serve restarts a gateway that dies."""
    while True:
        time.sleep(3600)
