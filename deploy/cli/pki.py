"""`takt pki`: the project's certificate authority, its allow-list, its signing keys.

The verbs work on the gateway's storage folder, also while the gateway runs: it sees a
change within a second. Not here: the rules (`cloud.pki.allowlist`), the certificates
(`cloud.pki.authority`) and signatures (`cloud.publishing.tuf_metadata`); a node's own
key, which `takt edge enroll` makes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.text import counted
from deploy.cli.groups import VerbGroup
from deploy.cli.options import (
    DEFAULT_STORAGE,
    Assign,
    Config,
    DataDir,
    Limit,
    Seed,
    Storage,
    expand,
    settings_of,
)

if TYPE_CHECKING:
    from cloud.pki.authority import Authority, Lifetimes

app = typer.Typer(
    cls=VerbGroup,
    name="pki",
    help="Make the project's authority, and say which nodes may join.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)

Node = Annotated[str, typer.Argument(help="The node's name.")]


@app.command()
def init(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A name or address that nodes reach the gateway by."
        ),
    ] = None,
) -> None:
    """Make the authority and the gateway's certificate, unless they are there."""
    from cloud.pki.authority import Authority
    from cloud.storage import StorageDir
    from deploy.runtime.surroundings import require_clock

    require_clock()
    authority = Authority(StorageDir(storage).pki)
    authority.init()
    authority.server_credentials(tuple(host or ()))
    typer.echo(
        f"authority in {authority.folder}; nodes trust {authority.folder}/ca.crt"
    )


@app.command()
def allow(node: Node, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let a node enrol once and print its token."""
    from cloud.pki.allowlist import TOKEN_LIFETIME

    authority = _authority(storage)
    authority.ca_pem()  # without an authority a token cannot be used
    token = authority.allow(node)
    typer.echo(token)
    typer.echo(f"valid once, for {TOKEN_LIFETIME.days} days", err=True)


@app.command()
def invite(
    config: Config,
    out: Annotated[
        Path, typer.Option(callback=expand, help="Takes one folder for each node.")
    ],
    gateway: Annotated[str, typer.Option(help="host:port of the node port.")],
    enroll: Annotated[str, typer.Option(help="host:port of the enrolment port.")],
    storage: Storage = DEFAULT_STORAGE,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    state: Annotated[Path, typer.Option(help="Where a node keeps its state.")] = Path(
        "/var/lib/takt"
    ),
) -> None:
    """Write what each node of a config needs to join: config, CA, one-time token."""
    from deploy.cli.invite import CA, invite_nodes

    settings, _ = settings_of(config, data_dir, limit, seed, assign, of_deployment=True)
    authority = _authority(storage)
    invited = invite_nodes(
        settings,
        authority,
        out,
        gateway=gateway,
        enroll=enroll,
        ca=Path(CA),  # beside edge.toml, wherever that is put
        state_dir=state,
    )
    typer.echo(
        f"{counted(len(settings.nodes), 'node')} in {out}; "
        f"invited: {', '.join(invited) or 'none'}"
    )


@app.command()
def sign(
    node: Node,
    request: Annotated[
        Path, typer.Argument(callback=expand, help="The node's signing request, PEM.")
    ],
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path | None,
        typer.Option(callback=expand, help="Where the certificate goes; else printed."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", "-c", help="Of the gateway: its node_days is what is signed."
        ),
    ] = None,
    assign: Assign = None,
) -> None:
    """Sign a node's request by hand, for nodes that enrol without a network.

    For as long as gateway.node_days of the config says; 30 days without one.
    """
    from cloud.pki.authority import Lifetimes
    from common.durable import write_atomic
    from common.errors import ConfigError

    try:
        csr_pem = request.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"cannot read request {request}: {e.strerror}; name the file of the node's "
            "signing request"
        ) from e
    lifetimes = Lifetimes()
    if config is not None:
        gateway = settings_of(config, assign=assign, of_deployment=True)[0].gateway
        lifetimes = Lifetimes.of(gateway.node_days, gateway.server_days)
    elif assign:
        raise ConfigError("--set changes a config; name the gateway's with --config")
    certificate = _authority(storage, lifetimes).sign(csr_pem, node)
    if out is None:
        typer.echo(certificate.decode(), nl=False)
    else:
        write_atomic(out, certificate)


@app.command()
def revoke(node: Node, storage: Storage = DEFAULT_STORAGE) -> None:
    """Refuse a node from now on; its open calls end within about a second."""
    _authority(storage).revoke(node)
    typer.echo(f"{node} is revoked")


@app.command("list")
def list_nodes(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the nodes: state, certificate, its end, and when that changed last."""
    entries = _authority(storage).allow_list.entries()
    if not entries:
        typer.echo("no nodes; let one join with: takt pki allow NODE")
    width = max(map(len, entries), default=0)
    for node, entry in entries.items():
        times = (entry.invited, entry.allowed, entry.revoked)
        last = max(time for time in times if time is not None)
        certificate = (entry.certificate_sha256 or "-")[:12]
        ends = f"ends {entry.ends:%Y-%m-%d %H:%M}" if entry.ends else "-"
        notes = "  token out" if entry.token_sha256 else ""
        notes += "  renewed, not used yet" if entry.next else ""
        typer.echo(
            f"{node:{width}}  {entry.state:8}  {certificate:12}  {ends:21}  "
            f"{last:%Y-%m-%d %H:%M} UTC{notes}"
        )


@app.command()
def rotate(
    role: Annotated[
        str, typer.Argument(help="root, targets, snapshot, timestamp, or authority.")
    ],
    storage: Storage = DEFAULT_STORAGE,
    finish: Annotated[
        bool, typer.Option("--finish", help="Drop the old authority.")
    ] = False,
) -> None:
    """Give a role that signs releases, or the authority, a new key; nodes follow."""
    from cloud.publishing.repository import ReleaseRepository
    from cloud.publishing.role_changes import check_role
    from cloud.publishing.roles import ROLES
    from cloud.storage import StorageDir
    from deploy.runtime.surroundings import require_clock

    check_role(role, (*ROLES, "authority"))
    require_clock()
    if role == "authority":
        _rotate_authority(storage, finish=finish)
        return

    folder = StorageDir(storage)
    folder.check_published()
    ReleaseRepository(folder.repository, folder.keys).rotate(role)
    typer.echo(
        f"role {role} signs with a new key, and the old one is no longer accepted"
    )


def _rotate_authority(storage: Path, *, finish: bool) -> None:
    authority = _authority(storage)
    if finish:
        authority.end_rotation()
        typer.echo("the old authority is no longer accepted")
        return
    authority.begin_rotation()
    typer.echo(
        "nodes get certificates of a new authority as they renew; when all have, drop "
        "the old one: takt pki rotate authority --finish"
    )


@app.command()
def log(
    storage: Storage = DEFAULT_STORAGE,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain; print its head digest.")
    ] = False,
    expect_head: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="A head digest that was kept elsewhere."),
    ] = None,
) -> None:
    """Show the trail: who published, rotated, signed, allowed, revoked what, when.

    A chain that is broken is exit code 8; the line names the first broken entry.
    """
    from cloud.storage import StorageDir
    from cloud.trail import Trail
    from common.text import printable

    folder = StorageDir(storage)
    folder.check_servable()
    trail = Trail(folder.trail)
    if verify or expect_head:
        head = trail.verify(expected_head=expect_head)
        size = counted(head.number, "entry", "entries")
        typer.echo(f"{size}, unbroken; head {head.digest}")
        return
    for entry in trail.entries():
        line = (
            f"{entry.number:5}  {entry.time:%Y-%m-%d %H:%M:%S} UTC  {entry.action:8}  "
            f"{entry.subject:20}  {entry.digest[:12]:12}  {entry.who}"
        )
        typer.echo(printable(line))


def _authority(storage: Path, lifetimes: "Lifetimes | None" = None) -> "Authority":
    """Return the authority of a folder that has one."""
    from cloud.pki.authority import Authority, Lifetimes
    from cloud.storage import StorageDir

    folder = StorageDir(storage)
    folder.check_project()
    return Authority(folder.pki, lifetimes=lifetimes or Lifetimes())
