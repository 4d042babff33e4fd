"""`takt edge`: a node against any gateway. Imports neither Ray nor torch.

Not here: what a node does (edge/daemon/node.py) and how it joins
(edge/daemon/enrolment.py).
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigError, DataError, StudentError, TaktError
from common.text import printable, shortened
from common.text_file import read_text, reason_of
from deploy.cli.groups import VerbGroup
from deploy.cli.long_verbs import long_verb, open_display
from deploy.cli.options import AsJson, expand

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.config import EdgeConfig
    from edge.predict import Prediction, Predictor
    from edge.state import Status

app = typer.Typer(
    cls=VerbGroup,
    help="A node: enrol, follow a channel, distil under caps.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)


def node_file(value: Path | None) -> Path | None:
    """Expand ~; refuse a place whose name the records of a node cannot hold."""
    from deploy.runtime.paths import require_utf_8

    path = expand(value)
    if path is not None:
        require_utf_8(path.absolute())
    return path


Config = Annotated[
    Path,
    typer.Option("--config", "-c", callback=node_file, help="The node's edge.toml."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TAKT_TOKEN_FILE",
        callback=expand,
        help="The same, read from a file; - reads standard input.",
    ),
]
DEFAULT = Path("edge.toml")
_MOST_OF_MESSAGE = 300  # characters
TOKEN_VARIABLE = "TAKT_TOKEN"


@app.command()
def enroll(
    config: Config = DEFAULT,
    token: Annotated[
        str | None,
        typer.Option(envvar=TOKEN_VARIABLE, help="From `takt pki allow NODE`."),
    ] = None,
    token_file: TokenFile = None,
) -> None:
    """Trade a one-time token for a certificate; the key stays here."""
    from edge.config import load_edge_config
    from edge.daemon.enrolment import enroll

    settings = load_edge_config(config)
    given = _given_token(token, token_file)
    if given is None:
        raise ConfigError(
            "no token is given; give --token-file FILE, or - to read standard input "
            "(`takt pki allow NODE` prints one)"
        )
    identity = enroll(settings, given)
    typer.echo(
        f"{identity.node} is enrolled until {identity.not_after:%F}; "
        f"it follows channel {identity.channel or '(set it in edge.toml)'}"
    )


@app.command()
def run(
    config: Config = DEFAULT,
    token: Annotated[
        str | None,
        typer.Option(envvar=TOKEN_VARIABLE, help="Enrols this node, unless it is."),
    ] = None,
    token_file: TokenFile = None,
) -> int:
    """Follow the channel: distil each new release, until stopped."""
    from edge.config import load_edge_config
    from edge.credentials import CERTIFICATE
    from edge.daemon import run_daemon
    from edge.daemon.enrolment import enroll
    from edge.state import StateDir

    settings = load_edge_config(config)
    _log_to_stderr(settings)
    identity = StateDir(settings.state_dir).identity
    os.environ.pop(TOKEN_VARIABLE, None)
    if not (identity / CERTIFICATE).exists():
        given = _given_token(token, token_file)
        if given is not None:
            enroll(settings, given)
    return run_daemon(settings, once=False)


@app.command()
@long_verb
def once(
    config: Config = DEFAULT,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait, if the channel has no release yet.")
    ] = False,
) -> int:
    """Distil the channel's present release, report, and end."""
    from deploy.cli.node_progress import followed
    from edge.config import load_edge_config
    from edge.daemon import run_daemon
    from edge.state import read_status

    settings = load_edge_config(config)
    with open_display(write_line=logging.getLogger("takt").info) as display:
        _log_to_stderr(settings, quiet=display.quiet)
        with followed(display, settings.state_dir):
            code = run_daemon(settings, once=True, wait=wait)
    if code == 0:
        _print_status(read_status(settings.state_dir))
    return code


@app.command()
@long_verb
def export(
    config: Config = DEFAULT,
    to: Annotated[str, typer.Option(help="onnx or onnx-int8.")] = "onnx-int8",
) -> None:
    """Write the promoted student as an ONNX file, for `takt edge predict`."""
    import threading

    from common.export.card import format_of
    from edge.config import load_edge_config
    from edge.jobs.exporting import run_export
    from edge.state import StateDir

    settings, format = load_edge_config(config), format_of(to)
    state = StateDir(settings.state_dir)
    promoted = state.read_current().promoted
    if promoted is None:
        raise StudentError("no student is promoted yet; see `takt edge status`")
    with open_display() as display, display.step("export", f"write {format}"):
        lines = run_export(settings, promoted, (format,), stop=threading.Event())
    for line in lines:
        typer.echo(printable(line))
    typer.echo(state.exported_file(promoted, format))


@app.command()
def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Files or folders; - is stdin."),
    ] = None,
    config: Config = DEFAULT,
    watch: Annotated[
        Path | None,
        typer.Option(callback=expand, help="Answer each new image in this folder."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--format", help="onnx or onnx-int8; default: int8, if there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer images with the promoted student, without torch."""
    from common.export.card import format_of
    from edge.config import load_edge_config
    from edge.predict import Prediction, Predictor, images_of
    from edge.state import StateDir

    if not images and watch is None:
        raise ConfigError(
            "no image is given; give files, a folder, - or --watch FOLDER"
        )
    state = StateDir(load_edge_config(config).state_dir)
    predictor = Predictor(state, None if to is None else format_of(to))

    def answer(prediction: Prediction) -> None:
        if as_json:
            typer.echo(json.dumps(prediction.model_dump(mode="json")))
        else:
            line = (
                f"{prediction.image}: {prediction.class_name}, probability "
                f"{prediction.probability:.3f}, margin {prediction.margin:.2f} "
                f"({prediction.channel} v{prediction.version}, {prediction.format})"
            )
            typer.echo(printable(line))
        sys.stdout.flush()

    for path, name in images_of(images or ()):
        answer(predictor.predict(path, name=name))
    if watch is not None:
        _answer_new(predictor, watch, answer)


@app.command()
def status(
    config: Config = DEFAULT,
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail unless the daemon is at work.")
    ] = False,
) -> None:
    """Say what the node's daemon does now, from its status.json.

    And what its release's starting weights are worth, as the cloud measured them.
    """
    from edge.config import load_edge_config
    from edge.state import StateDir, is_at_work, read_status

    settings = load_edge_config(config)
    found = read_status(settings.state_dir)
    if check and not is_at_work(found):
        raise TaktError(
            f"no daemon is at work ({describe_status(found)}); start it with "
            "`takt edge run`"
        )
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    _print_status(found)
    release = StateDir(settings.state_dir).releases / str(found.version)
    if not check and (line := describe_shipped(release, settings.student)):
        typer.echo(line)


@app.command()
def images(config: Config = DEFAULT) -> None:
    """Say what [data] of edge.toml holds, and which images leave the device."""
    from deploy.cli.node_images import describe_images
    from edge.config import load_edge_config

    for line in describe_images(load_edge_config(config)):
        typer.echo(printable(line))


def _print_status(status: "Status") -> None:
    """Print a node's status, and what its last distillation said of the images."""
    typer.echo(describe_status(status))
    for note in status.notes:
        typer.echo(f"note: {printable(note)}")


def describe_status(status: "Status") -> str:
    """Write a node's status as one line."""
    parts = [f"{status.node}: {status.state}"]
    if status.version:
        parts.append(f"release {status.version}")
    if status.epochs:
        parts.append(f"epoch {status.epoch}/{status.epochs}")
    if status.cap is not None:
        kind = "hard" if status.cap.hard else "soft"
        parts.append(f"caps by {status.cap.method} ({kind})")
    if status.outcome in ("kept", "refused", "failed"):
        parts.append(f"the last release was {status.outcome}")
    if status.message:
        parts.append(shortened(printable(status.message), _MOST_OF_MESSAGE))
    return ", ".join(parts)


def describe_shipped(release: Path, student: str) -> str:
    """Say how good a pulled release's student is before any training at the node.

    Args:
        release: the folder of its manifest.
        student: name of the recipe.

    Returns:
        A line, with the accuracies that the manifest declares; empty where it has no
        starting weights, or is not pulled yet.
    """
    from common.release import MANIFEST, decode_manifest
    from deploy.report.wording import describe, percent

    try:
        manifest = decode_manifest((release / MANIFEST).read_bytes())
    except (OSError, TaktError):  # the daemon says what is wrong with it
        return ""
    info = manifest.weights.get(student)
    if info is None:
        return ""
    robust = f"{percent(info.robust.accuracy)} % ({describe(info.robust)})"
    return (
        f"release {manifest.version} ships {printable(student)}: clean "
        f"{percent(info.clean_accuracy)} %, {robust}, on the cloud's validation images"
    )


def _given_token(token: str | None, path: Path | None) -> str | None:
    """Return the token that was given; children do not find it in the environment."""
    os.environ.pop(TOKEN_VARIABLE, None)
    return token or (None if path is None else _read_token(path))


def _read_token(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.readline().strip()
    try:
        return read_text(path).strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"cannot read the token in {path}: {reason_of(e)}; `takt pki allow NODE` "
            "prints one"
        ) from e


def _log_to_stderr(settings: "EdgeConfig", *, quiet: bool = False) -> None:
    from common.logs import log_to

    log_to(sys.stderr, settings.log_format, node=settings.node, quiet=quiet)


def _answer_new(
    predictor: "Predictor", folder: Path, answer: "Callable[[Prediction], None]"
) -> None:
    """Answer each new image of a folder until stopped; one that is none is named."""
    from edge.predict import new_images

    for path in new_images(folder):
        try:
            answer(predictor.predict(path))
        except DataError as e:
            typer.echo(f"takt: {printable(str(e))}", err=True)
