"""`takt edge`: a node against any gateway. Imports neither Ray nor torch.

Not here: what a node does (edge/daemon/node.py) and how it joins
(edge/daemon/enrolment.py).
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigError, TaktError
from deploy.cli.groups import VerbGroup
from deploy.cli.options import AsJson, expand

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.state import Status

app = typer.Typer(
    cls=VerbGroup,
    help="A node: enrol, follow a channel, distil under caps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[
    Path, typer.Option("--config", "-c", callback=expand, help="The node's edge.toml.")
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
        typer.Option(envvar=TOKEN_VARIABLE, help="Enrol first, where that is missing."),
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
def once(
    config: Config = DEFAULT,
    wait: Annotated[
        bool, typer.Option("--wait", help="For a channel's first release.")
    ] = False,
) -> int:
    """Distil the channel's present release, report, and end."""
    from edge.config import load_edge_config
    from edge.daemon import run_daemon
    from edge.state import read_status

    settings = load_edge_config(config)
    _log_to_stderr(settings)
    code = run_daemon(settings, once=True, wait=wait)
    if code == 0:
        typer.echo(describe_status(read_status(settings.state_dir)))
    return code


@app.command()
def status(
    config: Config = DEFAULT,
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail unless the daemon is at work.")
    ] = False,
) -> None:
    """Say what the node's daemon does now, from its status.json."""
    from edge.config import load_edge_config
    from edge.state import is_at_work, read_status

    found = read_status(load_edge_config(config).state_dir)
    if check and not is_at_work(found):
        raise TaktError(
            f"no daemon is at work ({describe_status(found)}); start it with "
            "`takt edge run`"
        )
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=1))
    else:
        typer.echo(describe_status(found))


@app.command()
def images(config: Config = DEFAULT) -> None:
    """Say what [data] of edge.toml holds, and which images leave the device."""
    from deploy.cli.node_images import describe_images
    from edge.config import load_edge_config

    for line in describe_images(load_edge_config(config)):
        typer.echo(line)


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
    if status.message:
        parts.append(status.message)
    return ", ".join(parts)


def _given_token(token: str | None, path: Path | None) -> str | None:
    """Return the token that was given; children do not find it in the environment."""
    os.environ.pop(TOKEN_VARIABLE, None)
    return token or (None if path is None else _read_token(path))


def _read_token(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.readline().strip()
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not text"
        raise ConfigError(
            f"cannot read the token in {path}: {reason}; `takt pki allow NODE` prints "
            "one"
        ) from e


def _log_to_stderr(settings: "EdgeConfig") -> None:
    from common.logs import log_to

    log_to(sys.stderr, settings.log_format, node=settings.node)
