"""The options that several verbs share, and the config that they make together.

Each option is declared once, as a type that a verb's parameter has. Not here: options
of one verb only, and what an option means for a run (deploy.runtime.settings).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.config import RunConfig


def expand(value: Path | None) -> Path | None:
    """Expand ~ in a path option; no shell does it in --storage=~/takt."""
    from deploy.runtime.paths import expanded

    return None if value is None else expanded(value)


def existing_folder(value: Path | None) -> Path | None:
    """Expand ~, and refuse a folder that is not there."""
    from common.errors import StorageError
    from common.regular_file import is_folder

    path = expand(value)
    if path is not None and not is_folder(path):
        raise StorageError(f"there is no folder {path}; give one that is there")
    return path


def own_folder(value: Path | None) -> Path | None:
    """Expand ~, and refuse a folder that another user may change."""
    from common.ownership import require_own_folder

    path = expand(value)
    if path is not None:
        require_own_folder(path)
    return path


Config = Annotated[
    str, typer.Option("--config", "-c", help="A TOML file, or a shipped config's name.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(callback=expand, help="Where the data set lies, or is put."),
]
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the config."),
]
Storage = Annotated[
    Path,
    typer.Option(
        "--storage",
        "-s",
        callback=own_folder,
        help="The cloud side's storage folder.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help='A Ray cluster ("auto" within a job); default: a local one.',
    ),
]
RunsDir = Annotated[
    Path, typer.Option(callback=expand, help="Where the run's folder is made.")
]
Compare = Annotated[
    bool, typer.Option("--compare", help="Train students without a teacher as well.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_STORAGE = Path("cloud-storage")
DEFAULT_RUNS = Path("runs")


def settings_of(
    config: str,
    data_dir: Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
    assign: list[str] | None = None,
    *,
    of_deployment: bool = False,
) -> "tuple[RunConfig, str]":
    """Read a verb's config with its options on top; also as TOML text.

    Args:
        config: a TOML file, or a shipped config's name.
        data_dir: of the option of that name, as the next three are.
        limit: the same.
        seed: the same.
        assign: the same.
        of_deployment: the verb is one that the files of a deployment run, which name
            one folder of data, whichever data set it is for.

    Raises:
        ConfigError: the config cannot be read, a key or value is wrong, or a folder
            is given for a data set that comes with takt.
    """
    from deploy.runtime.settings import load_run_config, refuse_data_dir

    overrides, typed = overrides_of(data_dir, limit, seed, assign)
    settings, text = load_run_config(config, overrides, typed=typed)
    if not of_deployment:
        given = "dataset.data_dir" if data_dir is None else "--data-dir"
        refuse_data_dir(settings.dataset, given)
    return settings, text


def overrides_of(
    data_dir: Path | None,
    limit: int | None,
    seed: int | None,
    assign: list[str] | None,
) -> tuple[dict[str, object], dict[str, str]]:
    """Return what a verb's options set, by key, and what messages call those options.

    Raises:
        ConfigError: an option cannot be read.
    """
    from deploy.runtime.paths import require_utf_8
    from deploy.runtime.settings import parse_assignments

    overrides = parse_assignments(assign or [])
    if data_dir is not None:
        require_utf_8(data_dir)
    typed = {}
    for option, key, value in (
        ("--data-dir", "dataset.data_dir", data_dir and str(data_dir.absolute())),
        ("--limit", "dataset.limit", limit),
        ("--seed", "seed", seed),
    ):
        if value is not None:
            overrides[key] = value
            typed[key] = f"{option} {value}"
    return overrides, typed
