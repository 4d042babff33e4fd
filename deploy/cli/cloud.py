"""`takt cloud`: stage 1 and the gateway, as a cluster job or on this machine.

`run` is train, extract, publish and serve, one after the other; each verb also works
alone on the same storage folder and does not repeat what is there. This module adds
what the user reads; not here: the steps (deploy/cloud_side.py).
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.storage import StorageDir
from common.address import join
from common.text import counted
from deploy.cli.groups import VerbGroup
from deploy.cli.long_verbs import is_quiet, long_verb, open_display
from deploy.cli.options import (
    DEFAULT_RUNS,
    DEFAULT_STORAGE,
    Address,
    AsJson,
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
from deploy.runtime.surroundings import require_clock

if TYPE_CHECKING:
    from common.config import RunConfig
    from deploy.runtime.progress import Display

app = typer.Typer(
    cls=VerbGroup,
    help="The cloud side: train, extract, publish, serve.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)


@app.command()
@long_verb
def run(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    serve: Annotated[bool, typer.Option(help="Serve nodes, from the start.")] = True,
) -> None:
    """Train, extract, publish, and serve until stopped; nodes may join at once."""
    from deploy.cloud_side import check_images
    from deploy.runtime.settings import refuse_unread_views

    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    refuse_unread_views(settings)
    require_clock()
    folder = StorageDir(storage)
    with folder.recorded_failure():
        check_images(settings)
    with (
        folder.recorded_failure() as work_is_done,
        open_display(on_stdout=True) as display,
        _cluster(address, folder, settings, display),
        _gateway(settings, folder, display.print) if serve else nullcontext(),
    ):
        display.print(_train(settings, folder, display))
        display.print(_extract(settings, folder, display))
        typer.echo(_publish(settings, folder, display))
        work_is_done()
        if serve:
            _wait()


@app.command()
@long_verb
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

    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    check_images(settings)
    folder = StorageDir(storage)
    with (
        folder.recorded_failure(),
        open_display(on_stdout=True) as display,
        _cluster(address, folder, settings, display),
    ):
        found = _train(settings, folder, display)
    typer.echo(found)


@app.command()
@long_verb
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

    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    folder = StorageDir(storage)
    check_extractable(settings, folder)
    with (
        folder.recorded_failure(),
        open_display(on_stdout=True) as display,
        _cluster(address, folder, settings, display),
    ):
        found = _extract(settings, folder, display)
    typer.echo(found)


@app.command()
@long_verb
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
    unsigned: Annotated[
        Path | None,
        typer.Option(
            callback=expand,
            help="Write the targets metadata there, for `takt keys sign` elsewhere.",
        ),
    ] = None,
) -> None:
    """Sign what was extracted as the channel's new release."""
    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    folder = StorageDir(storage)
    require_clock()
    folder.check_teacher()
    with folder.recorded_failure(), open_display(on_stdout=True) as display:
        found = _publish(settings, folder, display, force=force, unsigned=unsigned)
    typer.echo(found)
    if unsigned is not None:
        typer.echo(f"once {unsigned} is signed: takt keys accept {unsigned}")


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
    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    folder = StorageDir(storage)
    require_clock()
    folder.check_servable()
    with (
        open_display(on_stdout=True) as display,
        _cluster(address, folder, settings, display),
        _gateway(settings, folder, typer.echo),
    ):
        _say_if_unpublished(settings, folder)
        _wait()


@app.command()
def check(storage: Storage = DEFAULT_STORAGE) -> None:
    """Fail unless the gateway of a storage folder answers and has nothing to mend."""
    from cloud.gateway.probe import check_gateway

    typer.echo(f"the gateway at {check_gateway(StorageDir(storage))} answers")


@app.command()
def nodes(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List the nodes that were seen: what each does, and its last report."""
    from deploy.report.fleet import print_fleet, read_fleet
    from deploy.runtime.terminal import make_console

    folder = StorageDir(storage)
    folder.check_servable()
    found = read_fleet(folder.fleet)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
    elif found:
        print_fleet(found, make_console())
    else:
        typer.echo("no node was seen yet; who may join: takt pki list")


@app.command()
@long_verb
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
    settings, text = settings_of(
        config, data_dir, limit, seed, assign, of_deployment=True
    )
    StorageDir(storage.resolve()).check_there()
    from deploy.simulation.collect import collect_run

    return collect_run(
        settings,
        text,
        storage=storage.resolve(),
        nodes_dir=nodes_dir,
        runs_dir=runs_dir,
        compare=compare,
        quiet=is_quiet(),
    )


@contextmanager
def _cluster(
    address: str | None,
    storage: StorageDir,
    settings: "RunConfig",
    display: "Display",
) -> Iterator[None]:
    from deploy import cloud_side

    with ExitStack() as stack:
        with display.step("cluster"):
            stack.enter_context(
                cloud_side.cluster(settings, logs=storage.ray_logs, address=address)
            )
        yield


def _train(settings: "RunConfig", storage: StorageDir, display: "Display") -> str:
    """Train the teacher; say in a line what came of it."""
    from common.data.datasets import dataset_notes
    from deploy import cloud_side
    from deploy.cloud_progress import shown, teacher_progress
    from deploy.report.wording import describe, percent

    for note in dataset_notes(settings.dataset, seed=settings.seed):
        display.print(f"note: {note}")
    with shown(
        *(display, "teacher", "adversarial training with Ray Train"),
        lambda: teacher_progress(settings, storage),
    ):
        card = cloud_side.train(settings, storage, display.print)
    trial = " (a trial of two epochs on CPUs)" if card.trial else ""
    return (
        f"teacher {card.architecture}{trial}: clean {percent(card.clean_accuracy)} %, "
        + ", ".join(f"{percent(e.accuracy)} % ({describe(e)})" for e in card.robust)
    )


def _extract(settings: "RunConfig", storage: StorageDir, display: "Display") -> str:
    """Extract knowledge, distil starting weights; say where they are."""
    from deploy import cloud_side
    from deploy.cloud_progress import knowledge_progress, shown, weights_progress

    with shown(
        *(display, "knowledge", "extract it with Ray actors"),
        lambda: knowledge_progress(storage),
    ):
        folder = cloud_side.extract(settings, storage)
    if settings.knowledge.weights:
        with shown(
            *(display, "weights", "distil starting weights with Ray"),
            lambda: weights_progress(settings, storage),
        ):
            cloud_side.distil_weights(settings, storage, display.print)
    return f"knowledge: {folder}"


def _publish(
    settings: "RunConfig",
    storage: StorageDir,
    display: "Display",
    *,
    force: bool = False,
    unsigned: Path | None = None,
) -> str:
    """Sign a release; say in a line what it is."""
    from deploy import cloud_side

    with display.step("publish", f"sign a release to '{settings.channel}'"):
        manifest = cloud_side.publish(settings, storage, force=force, unsigned=unsigned)
    trial = " (of a trial teacher)" if manifest.teacher.trial else ""
    verb = "is at" if unsigned is None else "waits for signatures for"
    return (
        f"channel '{manifest.channel}' {verb} version {manifest.version}{trial}: "
        f"{manifest.num_bytes:,} bytes, "
        f"{counted(manifest.num_samples, 'sample')}"
    )


@contextmanager
def _gateway(
    settings: "RunConfig", storage: StorageDir, say: Callable[[str], None]
) -> Iterator[None]:
    from deploy import cloud_side

    with cloud_side.gateway(settings, storage) as addresses:
        say(
            f"serving channel '{settings.channel}' at {addresses.address}, enrolment "
            f"at {addresses.enroll_address}; nodes trust {storage.ca}"
        )
        if addresses.status_port:
            page = join(addresses.status_host, addresses.status_port)
            typer.echo(f"its status is at http://{page}/, for Prometheus at /metrics")
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
