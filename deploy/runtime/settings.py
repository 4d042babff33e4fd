"""Which config a command means: shipped name or path, and options on top of it.

Options of the command line are the same keys as the file's, so a run can write
down the one config that it really used. Not here: the keys and their bounds
(common.config).
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, time
from importlib.resources import files
from pathlib import Path

from common.catalog import reads_soft_labels
from common.config import DATA_DIR_MISSING, DatasetConfig, RunConfig
from common.config.store_url import check_store_url
from common.config.toml_file import WrongKeyError, parse_config, set_options
from common.errors import ConfigError
from common.regular_file import is_file
from common.release import check_contents, check_views
from common.text_file import read_text, reason_of
from deploy.runtime.paths import expanded

_DATA_DIR = "dataset.data_dir"  # the key that is a path


def load_run_config(
    name: str,
    overrides: Mapping[str, object] | None = None,
    *,
    typed: Mapping[str, str] | None = None,
) -> tuple[RunConfig, str]:
    """Read a run's config and put options on top.

    Args:
        name: of a shipped config, for instance "digits", or a path to a file.
        overrides: values by dotted key, for instance {"dataset.limit": 500}.
        typed: what messages call an override, by its key, for instance "--limit 500";
            where there is none, as --set has it.

    Returns:
        The config, and the same as TOML text: the file's own, comments included,
        with the options set in it.

    Raises:
        ConfigError: there is no such file, or a key or value is wrong.
    """
    source, text = read_shipped(name, "configs")
    overrides = dict(overrides or {})
    if isinstance(data_dir := overrides.get(_DATA_DIR), str):  # from where one stands
        overrides[_DATA_DIR] = str(expanded(Path(data_dir)).absolute())
    folder = expanded(Path(name)).absolute().parent
    of_file = text
    if overrides:
        text = set_options(text, overrides, source=source)
    try:
        config = parse_config(text, RunConfig, source=source, folder=folder)
    except WrongKeyError as e:
        if str(e) == _complaint_about(of_file, source, folder):
            raise
        raise _blamed(e, source, overrides, typed or {}) from e
    if config.dataset.data_dir is not None:  # the text is kept in other folders
        options = {_DATA_DIR: config.dataset.data_dir}
        text = set_options(text, options, source=source)
    if config.teacher.store is not None:
        check_store_url(config.teacher.store)
    if config.dataset.name == "folder" and config.dataset.data_dir is None:
        raise ConfigError(f"{source}: {DATA_DIR_MISSING}")
    for recipe in config.students.values():
        check_contents(recipe, config.knowledge)
        check_views(recipe, config.knowledge)
    return config, text


def refuse_data_dir(dataset: DatasetConfig, given: str = "--data-dir") -> None:
    """Refuse a folder that would not be looked at: the data set comes with takt.

    Args:
        dataset: with the folder in it, if one is given.
        given: where that comes from, in the words of the one who gave it.

    Raises:
        ConfigError: there is a folder, and the data set is embedded.
    """
    if dataset.is_embedded and dataset.data_dir is not None:
        raise ConfigError(
            f"data set {dataset.name} needs no {given}; for your own images: takt init "
            "FOLDER --data DIR"
        )


def refuse_unread_views(config: RunConfig) -> None:
    """Refuse to label more views of each image than any student is trained on.

    For what extracts. A grid of a comparison changes the recipes afterwards.

    Raises:
        ConfigError: [knowledge] has more.
    """
    labelled = config.knowledge.num_views
    if "soft_labels" not in config.knowledge.contents:
        return
    read = {
        name: recipe.num_views
        for name, recipe in config.students.items()
        if reads_soft_labels(recipe.method)
    }
    most = max(read.values(), default=1)
    if labelled <= most:
        return
    each = ", ".join(f"students.{name}.num_views = {n}" for name, n in read.items())
    raise ConfigError(
        f"knowledge.num_views = {labelled}, but no student reads soft labels of more "
        f"than {most} ({each or 'none reads any'}): the others would be extracted and "
        f"shipped for nothing; set knowledge.num_views = {most}, or raise num_views of "
        "a student that is to train on them"
    )


def _complaint_about(text: str, source: str, folder: Path) -> str:
    """Return what is wrong with a file, without any option in it; "" for nothing."""
    try:
        parse_config(text, RunConfig, source=source, folder=folder)
    except ConfigError as e:
        return str(e)
    return ""


def _blamed(
    error: WrongKeyError,
    source: str,
    overrides: Mapping[str, object],
    typed: Mapping[str, str],
) -> ConfigError:
    """Name the options that a wrong key came from; all, where it is not theirs alone.

    An option may set the wrong key itself, a table around it or a key in it.
    """
    names = {key: _as_typed(key, overrides[key], typed) for key in overrides}
    within = [n for key, n in names.items() if f"{key}.".startswith(f"{error.key}.")]
    around = [n for key, n in names.items() if f"{error.key}.".startswith(f"{key}.")]
    if error.key and within:
        return ConfigError(f"{', '.join(within)}: {error.complaint.why}")
    if around:
        return ConfigError(f"{', '.join(around)}: {error.complaint.text}")
    return ConfigError(
        f"{source} with {', '.join(names.values())}: {error.complaint.text}"
    )


def _as_typed(key: str, value: object, typed: Mapping[str, str]) -> str:
    return typed.get(key) or f"--set {key}={value}"


def parse_assignments(assignments: Sequence[str]) -> dict[str, object]:
    """Read ``key=value`` options; values are TOML, bare words are strings.

    Raises:
        ConfigError: there is no "=" or no key.
    """
    found: dict[str, object] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {assignment}: expected key=value, for instance "
                "--set teacher.epochs=5"
            )
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):  # no TOML, or beyond Python's bounds
            read = value.strip()
        if isinstance(
            read, date | time
        ):  # no key has such values, but a name may look like one
            read = value.strip()
        found[key.strip()] = read
    return found


def read_shipped(name: str, folder: str) -> tuple[str, str]:
    """Read a TOML file: one that comes with takt, by its name, or one at a path.

    Args:
        name: for instance "digits", or a path; a file of that name comes first.
        folder: of deploy, where takt's own lie: "configs" or "grids".

    Returns:
        What messages call it, and its text.

    Raises:
        ConfigError: there is no such file, or it is no text.
    """
    path = expanded(Path(name))
    if not is_file(path) and name in shipped(folder):
        entry = files("deploy").joinpath(folder, f"{name}.toml")
        return f"{name}.toml", entry.read_text(encoding="utf-8")
    try:
        return name, read_text(path)
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"cannot read {folder.removesuffix('s')} {name}: {reason_of(e)}; give a "
            f"TOML file or one of {', '.join(shipped(folder))}"
        ) from e


def shipped(folder: str) -> list[str]:
    """List the names of what comes with takt in deploy's folder of TOML files."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in files("deploy").joinpath(folder).iterdir()
        if entry.name.endswith(".toml")
    )
