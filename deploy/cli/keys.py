"""`takt keys`: the keys that sign releases; making, changing, and signing elsewhere.

`make`, `show` and `sign` need no storage folder: they run on the machine where a key
is kept. Not here: what the verbs do (`cloud.publishing.ceremony`, `key_files`,
`offline_signing`), nodes and the authority (`takt pki`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.publishing.roles import OFFLINE, SHORT
from deploy.cli.groups import VerbGroup
from deploy.cli.options import DEFAULT_STORAGE, Storage, expand

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from cloud.publishing.ceremony import Ceremony
    from cloud.publishing.role_changes import RoleChange

app = typer.Typer(
    cls=VerbGroup,
    name="keys",
    help="The keys that sign releases: make, change, and sign on another machine.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        callback=expand,
        help="Holds the passphrase; else TAKT_KEY_PASSPHRASE has it, or it is asked "
        "for.",
    ),
]
NoPassphrase = Annotated[
    bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted.")
]
Role = Annotated[str, typer.Argument(help="root or targets.")]


@app.command()
def make(
    file: Annotated[
        Path,
        typer.Argument(
            callback=expand, help="Takes the private key; FILE.pub the public."
        ),
    ],
    passphrase_file: PassphraseFile = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Make a key outside of any storage, encrypted by a passphrase."""
    from cloud.publishing.key_files import PUBLIC_SUFFIX, make_key_file
    from deploy.runtime.passphrase import new_passphrase

    passphrase = None if no_passphrase else new_passphrase(passphrase_file)
    made = make_key_file(file, passphrase)
    typer.echo(
        f"key {made.key.keyid[:SHORT]}: {file}, its public part {file}{PUBLIC_SUFFIX}"
    )


@app.command()
def show(
    file: Annotated[
        Path,
        typer.Argument(callback=expand, help="A key, or a file for `takt keys sign`."),
    ],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Print a key's public part as PEM, or what a file would bring into force.

    The key id goes to standard error: `takt keys show FILE > FILE.pub`.
    """
    from cloud.publishing.key_files import read_public_key
    from cloud.publishing.offline_signing import describe
    from common.text import printable
    from deploy.runtime.passphrase import known_passphrase

    data = _read(file)
    if data.lstrip().startswith(b"{"):
        for line in describe(data):
            typer.echo(printable(line))
        return
    found = read_public_key(file, lambda _: known_passphrase(passphrase_file, file))
    typer.echo(found.pem.decode(), nl=False)
    typer.echo(f"key {found.key.keyid[:SHORT]}", err=True)


@app.command("list")
def list_(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the roles: how many of which keys sign, where those lie, when each ends."""
    from common.text import printable

    for found in _ceremony(storage).roles():
        typer.echo(
            f"{found.role:9}  {found.threshold} of {len(found.keys)}  version "
            f"{found.version:4}  ends {found.expires:%Y-%m-%d %H:%M} UTC"
        )
        for keyid, uri in found.keys:
            where = "elsewhere" if uri is None else uri.removeprefix("file2:")
            typer.echo(printable(f"  {keyid[:SHORT]}  {where}"))


@app.command()
def change(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    storage: Storage = DEFAULT_STORAGE,
    add: Annotated[
        list[Path] | None,
        typer.Option(metavar="PUBLIC", help="A public key that may sign from now on."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYID", help="A key that may not sign any more."),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many keys have to sign.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=expand,
            help="Write the new root there, unsigned, for `takt keys sign`.",
        ),
    ] = None,
) -> None:
    """Change who signs for a role, and how many have to; nodes follow.

    Needs enough root keys here, those of the new root, too; with --out they sign
    elsewhere and `takt keys accept` takes the root. Of another role enough of the keys
    that remain must have signed before: takt does that with keys that are here.
    """
    wanted = _change(role, add or [], remove or [], threshold)
    ceremony = _ceremony(storage)
    if out is not None:
        _write(out, ceremony.export("root", wanted))
        typer.echo(f"root without signatures: {out}; let its keys sign it")
        return
    ceremony.change(wanted)
    typer.echo(f"{role} is changed; nodes follow with their next look")


@app.command()
def offline(
    role: Role,
    file: Annotated[
        Path, typer.Argument(callback=expand, help="Takes the private key.")
    ],
    storage: Storage = DEFAULT_STORAGE,
    key: Annotated[
        str, typer.Option(metavar="KEYID", help="Which one, where a role has several.")
    ] = "",
    passphrase_file: PassphraseFile = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Move a private key out of the storage folder, to a stick for instance.

    keys/signers.toml notes the place: while the file is there and its passphrase is
    named by TAKT_ROOT_SECRET (or TAKT_TARGETS_SECRET), takt signs with it.
    """
    from common.errors import ConfigError
    from deploy.runtime.passphrase import new_passphrase

    _check_offline(role)
    if file.resolve().is_relative_to(storage.resolve()):
        raise ConfigError(f"{file} is in the storage folder; name a place elsewhere")
    ceremony = _ceremony(storage)
    passphrase = None if no_passphrase else new_passphrase(passphrase_file)
    keyid = ceremony.take_offline(role, file, passphrase, prefix=key)
    typer.echo(
        f"the {role} key {keyid[:SHORT]} lies at {file}, and no longer in {storage}"
    )


@app.command()
def export(
    role: Role,
    file: Annotated[
        Path, typer.Argument(callback=expand, help="Takes the unsigned metadata.")
    ],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write the next root or targets metadata as a file, to be signed elsewhere.

    With the same content and a new end. Other keys: takt keys change --out; a new
    release: takt cloud publish --unsigned.
    """
    _check_offline(role)
    _write(file, _ceremony(storage).export(role))
    typer.echo(f"{role} without signatures: {file}; let its keys sign it")


@app.command()
def sign(
    file: Annotated[
        Path,
        typer.Argument(
            callback=expand,
            help="Of `takt keys export`, `keys change --out`, `cloud publish "
            "--unsigned`.",
        ),
    ],
    key: Annotated[
        str, typer.Argument(help="The private key's file, or a URI: hsm:2, awskms:...")
    ],
    public: Annotated[
        Path | None,
        typer.Option(callback=expand, help="The public key of a URI, PEM."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Add a signature to exported metadata; look at it first with takt keys show.

    Needs no storage folder, and no network.
    """
    from cloud.publishing.offline_signing import describe, with_signature
    from common.durable import write_atomic
    from common.text import printable

    data = _read(file)
    lines = describe(data)
    signed = with_signature(data, _signer(key, public, passphrase_file), key)
    write_atomic(file, signed)
    typer.echo(printable(f"signed {lines[0]}"))


@app.command()
def accept(
    file: Annotated[
        Path, typer.Argument(callback=expand, help="Metadata that enough keys signed.")
    ],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Check metadata that were signed elsewhere, and bring them into force."""
    name = _ceremony(storage).accept(_read(file))
    typer.echo(f"{name} is in force")


def _check_offline(role: str) -> None:
    """Refuse a role that is not signed elsewhere, before the folder is looked at."""
    from cloud.publishing.role_changes import check_role

    check_role(role, OFFLINE)


def _ceremony(storage: Path) -> "Ceremony":
    """Open the repository of a folder that has one."""
    from cloud.publishing.ceremony import Ceremony
    from cloud.storage import StorageDir

    folder = StorageDir(storage)
    folder.check_published()
    return Ceremony(folder.repository, folder.keys)


def _change(
    role: str, add: list[Path], remove: list[str], threshold: int | None
) -> "RoleChange":
    from cloud.publishing.key_files import read_public_key
    from cloud.publishing.role_changes import RoleChange, check_role
    from common.errors import ConfigError
    from deploy.runtime.passphrase import known_passphrase
    from deploy.runtime.paths import expanded

    check_role(role)
    if not add and not remove and threshold is None:
        raise ConfigError("nothing to change: give --add, --remove or --threshold")
    keys = [
        read_public_key(expanded(path), lambda _: known_passphrase(None, "it")).key
        for path in add
    ]
    return RoleChange(role, tuple(keys), tuple(remove), threshold)


def _signer(key: str, public: Path | None, passphrase_file: Path | None) -> "Signer":
    from cloud.publishing.key_files import read_public_key, read_signer
    from cloud.publishing.signers import is_uri, open_signer
    from common.errors import ConfigError
    from deploy.runtime.passphrase import known_passphrase
    from deploy.runtime.paths import expanded

    def secret(_: str) -> str:
        return known_passphrase(passphrase_file, key)

    if not is_uri(key):
        return read_signer(expanded(Path(key)), secret)
    if public is None:
        raise ConfigError(f"{key} names a device; give its public key with --public")
    found = read_public_key(public, secret).key
    return open_signer(key, found, secret, name="the key")


def _read(file: Path) -> bytes:
    from common.errors import ConfigError

    try:
        return file.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"cannot read {file}: {e.strerror or e}; name a file that is there"
        ) from e


def _write(file: Path, data: bytes) -> None:
    from common.durable import write_atomic

    write_atomic(file, data)
