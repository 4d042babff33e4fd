"""`takt edge`: a node against any gateway. Imports neither Ray nor torch.

Not here: what a node does (edge/daemon/node.py) and how it joins
(edge/daemon/enrolment.py).
"""

import json
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
DEFAULT = Path("edge.toml")


@app.command()
def enroll(
    token: Annotated[
        str, typer.Option(envvar="TAKT_TOKEN", help="From `takt pki allow NODE`.")
    ],
    config: Config = DEFAULT,
) -> None:
    """Trade a one-time token for a certificate; the key stays here."""
    from edge.config import load_edge_config
    from edge.daemon.enrolment import enroll

    identity = enroll(load_edge_config(config), token)
    typer.echo(
        f"{identity.node} is enrolled until {identity.not_after:%F}; "
        f"it follows channel {identity.channel or '(set it in edge.toml)'}"
    )


@app.command()
def run(
    config: Config = DEFAULT,
    token: Annotated[
        str | None,
        typer.Option(envvar="TAKT_TOKEN", help="Enrol first, where that is missing."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TAKT_TOKEN_FILE",
            callback=expand,
            help="The same, read from a file.",
        ),
    ] = None,
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
    if not (identity / CERTIFICATE).exists():
        token = token or (_read_token(token_file) if token_file else None)
        if token is not None:
            enroll(settings, token)
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


def _read_token(path: Path) -> str:
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
