"""`takt cloud`: stage 1 and the gateway, as a cluster job or on this machine.

`run` is train, extract, publish and serve after each other; each verb also works
alone on the same storage folder and does not repeat what is there. Not here: the
steps themselves.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.config import RunConfig

app = typer.Typer(
    help="The cloud side: train, extract, publish, serve.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[
    str, typer.Option("--config", "-c", help="A TOML file, or a shipped config's name.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the data set lies, or is put.")
]
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the config."),
]
Storage = Annotated[
    Path, typer.Option("--storage", "-s", help="The cloud side's storage folder.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help='A Ray cluster ("auto" within a job); default: a local one.',
    ),
]
DEFAULT_STORAGE = Path("cloud-storage")


def overrides_of(
    data_dir: Path | None,
    limit: int | None,
    seed: int | None,
    assign: list[str] | None,
) -> dict[str, object]:
    """Turn the options that stand for config keys into those keys."""
    from deploy.runtime.settings import parse_assignments

    overrides = parse_assignments(assign or [])
    if data_dir is not None:
        overrides["dataset.data_dir"] = str(data_dir.absolute())
    if limit is not None:
        overrides["dataset.limit"] = limit
    if seed is not None:
        overrides["seed"] = seed
    return overrides


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
    from deploy.runtime.job_failure import recorded_failure

    settings = _settings(config, data_dir, limit, seed, assign)
    with (
        recorded_failure(storage),
        _cluster(address, storage, settings),
        _gateway(settings, storage) if serve else nullcontext(),
    ):
        _train(settings, storage)
        _extract(settings, storage)
        _publish(settings, storage)
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
    settings = _settings(config, data_dir, limit, seed, assign)
    with _cluster(address, storage, settings):
        _train(settings, storage)


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
    """Extract the teacher's knowledge into shards."""
    settings = _settings(config, data_dir, limit, seed, assign)
    with _cluster(address, storage, settings):
        _extract(settings, storage)


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
    settings = _settings(config, data_dir, limit, seed, assign)
    _publish(settings, storage, force=force)


@app.command()
def serve(
    config: Config,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    assign: Assign = None,
) -> None:
    """Serve the repository to nodes until stopped."""
    settings = _settings(config, None, None, None, assign)
    with _cluster(address, storage, settings), _gateway(settings, storage):
        _wait()


@app.command()
def check(storage: Storage = DEFAULT_STORAGE) -> None:
    """Fail unless the gateway of a storage folder answers on this machine."""
    from cloud.gateway.probe import check_gateway

    typer.echo(f"the gateway at {check_gateway(storage)} answers")


@app.command()
def report(
    config: Config,
    nodes_dir: Annotated[Path, typer.Option(help="Has NODE/students of each node.")],
    storage: Storage = DEFAULT_STORAGE,
    runs_dir: Annotated[
        Path, typer.Option(help="Where the run's folder is made.")
    ] = Path("runs"),
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train PGD-AT baselines as well.")
    ] = False,
) -> int:
    """Follow a job and its nodes that run elsewhere; end as `takt simulate` does."""
    from deploy.runtime.settings import load_run_config

    overrides = overrides_of(data_dir, limit, seed, assign)
    settings, text = load_run_config(config, overrides)
    from deploy.simulation.collect import collect_run

    return collect_run(
        settings,
        text,
        storage=storage.resolve(),
        nodes_dir=nodes_dir,
        runs_dir=runs_dir,
        compare=compare,
    )


def _settings(
    config: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int | None,
    assign: list[str] | None,
) -> "RunConfig":
    from deploy.runtime.settings import load_run_config

    overrides = overrides_of(data_dir, limit, seed, assign)
    return load_run_config(config, overrides)[0]


@contextmanager
def _cluster(
    address: str | None, storage: Path, settings: "RunConfig"
) -> Iterator[None]:
    from cloud.cluster.local import connect, local_cluster
    from deploy.runtime.exits import arm_signals
    from deploy.runtime.machine import num_cores

    if address:
        with connect(address):
            arm_signals()
            yield
        return
    slots = max(settings.teacher.num_workers, settings.knowledge.num_actors)
    logs = storage / "logs" / "ray"
    with local_cluster(logs, num_cpus=max(slots, num_cores())):
        arm_signals()
        yield


def _train(settings: "RunConfig", storage: Path) -> None:
    from deploy.report.wording import describe, percent
    from deploy.runtime.exits import arm_signals
    from deploy.selection.teacher import make_teacher

    card = make_teacher(settings, storage, typer.echo)
    arm_signals()  # the training job has handlers of its own
    typer.echo(
        f"teacher {card.architecture}: clean {percent(card.clean_accuracy)} %, "
        + ", ".join(f"{percent(e.accuracy)} % ({describe(e)})" for e in card.robust)
    )


def _extract(settings: "RunConfig", storage: Path) -> None:
    from cloud.extraction.job import extract_knowledge

    index = extract_knowledge(settings, storage)
    typer.echo(f"knowledge: {index}")


def _publish(settings: "RunConfig", storage: Path, *, force: bool = False) -> None:
    from cloud.publishing.publish import publish_release
    from common.data.datasets import load_dataset

    dataset = load_dataset(settings.dataset, seed=settings.seed)
    manifest = publish_release(settings, storage, dataset, force=force)
    typer.echo(
        f"channel '{manifest.channel}' is at version {manifest.version}: "
        f"{sum(shard.num_bytes for shard in manifest.shards):,} bytes, "
        f"{manifest.num_samples:,} samples"
    )


@contextmanager
def _gateway(settings: "RunConfig", storage: Path) -> Iterator[None]:
    """Serve the storage for the body."""
    from cloud.gateway.live_teacher import is_wanted
    from cloud.gateway.ray_serve import start_gateway, stop_gateway

    addresses = start_gateway(
        settings.gateway,
        storage,
        channel=settings.channel,
        live_teacher=is_wanted(settings),
    )
    typer.echo(
        f"serving channel '{settings.channel}' at {addresses.address}, enrolment at "
        f"{addresses.enroll_address}; nodes trust {storage / 'pki' / 'ca.crt'}"
    )
    try:
        yield
    finally:
        stop_gateway()


def _wait() -> None:
    """Wait to be stopped; Serve restarts a gateway that dies."""
    while True:
        time.sleep(3600)
