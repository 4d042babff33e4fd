"""A node's identity: its key, its certificate, the project CA and the TUF root.

The node makes its own EC P-256 key; only a signing request leaves the machine.
There are two ways to a certificate: `edge.daemon.enrolment.enroll` (one-time token), or
by hand: `make_request` writes node.csr, `takt pki sign` signs it, and the operator
copies node.crt, ca.crt and root.json into the identity folder. Both keep an existing
key. Not here: the CA's side (cloud/pki/authority.py), connecting.
"""

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.clock import Clock, utc_now
from common.durable import fsync_folder, locked, make_folder, storing, write_atomic
from common.errors import ClockError, IdentityError
from common.names import EXPECTED, is_name

KEY, CERTIFICATE, CA, ROOT = "node.key", "node.crt", "ca.crt", "root.json"
REQUEST, CHANNEL = "node.csr", "channel"
NEXT_KEY, NEXT_CERTIFICATE = "next.key", "next.crt"  # of a renewal that is under way

ENROLL_HINT = "run `takt edge enroll` with a token from `takt pki allow`"


@dataclass(frozen=True)
class Identity:
    """A checked identity: the files' contents and where they lie."""

    node: str
    folder: Path
    key_pem: bytes
    certificate_pem: bytes
    ca_pem: bytes
    root_json: bytes
    channel: str | None  # named at enrolment; None when set up by hand
    not_before: datetime
    not_after: datetime


class Certificates(NamedTuple):
    """Files of a TLS client; without key and certificate only for enrolment."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, folder: Path) -> "Certificates":
        """Name the files of an identity folder."""
        return cls(folder / CA, folder / CERTIFICATE, folder / KEY)


@contextlib.contextmanager
def being_changed(folder: Path) -> Iterator[None]:
    """Hold an identity folder's lock: an enrolment and a renewal take turns.

    Raises:
        StorageError: the folder is missing or cannot be written.
    """
    with locked(folder / ".lock"):
        yield


def make_request(folder: Path, node: str) -> bytes:
    """Make the node's key if there is none, and a signing request for `node`.

    Args:
        folder: the identity folder; made with mode 0700.
        node: the name, which becomes the subject's common name.

    Returns:
        The request (PEM), which is also written to node.csr.

    Raises:
        IdentityError: an existing key is damaged.
        StorageError: the folder cannot be written.
    """
    make_folder(folder, mode=0o700)
    make_key(folder / KEY, point="edge.identity.key")
    pem = request_of(folder / KEY, node)
    write_atomic(folder / REQUEST, pem)
    return pem


def make_key(path: Path, *, point: str) -> None:
    """Make a key in a file, unless it is there.

    Args:
        path: of the file.
        point: prefix of its fault points, see `write_atomic`.

    Raises:
        StorageError: the folder cannot be written.
    """
    if path.exists():
        return
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomic(path, pem, point=point, mode=0o600)


def request_of(key_file: Path, node: str) -> bytes:
    """Make a signing request (PEM) for the key in a file.

    Raises:
        IdentityError: the key is missing or damaged.
    """
    key = _parse_key(key_file, _read(key_file))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def store_certificate(
    folder: Path,
    *,
    node: str,
    certificate_pem: bytes,
    ca_pem: bytes,
    root_json: bytes,
    channel: str | None,
    now: Clock = utc_now,
) -> Identity:
    """Check an answered request against the node's key, then keep it.

    A renewal that is under way is dropped: what it brings was issued before. Where a
    daemon may be at work, `being_changed` is held since the request was made.

    Raises:
        IdentityError: the certificate is not for this key, name or CA, or not
            valid now, or the channel is no name; nothing was stored.
        StorageError: the folder cannot be written.
    """
    if channel and not is_name(channel):
        raise IdentityError(
            f"the gateway names the channel {channel[:80]!r}, expected {EXPECTED}; ask "
            "its operator"
        )
    key_pem = _read(folder / KEY)
    identity = _check(
        folder, node, (key_pem, certificate_pem, ca_pem, root_json), channel, now()
    )
    _drop_renewal(folder)
    write_atomic(folder / CA, ca_pem, point="edge.identity.ca")
    write_atomic(folder / ROOT, root_json, point="edge.identity.root")
    if channel:
        write_atomic(folder / CHANNEL, channel.encode())
    # Last: a certificate in place means that the enrolment is complete.
    write_atomic(folder / CERTIFICATE, certificate_pem, point="edge.identity.crt")
    return identity


def _drop_renewal(folder: Path) -> None:
    """Remove what a renewal has left; first what would be put in place without a key.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storing(folder):
        for name in (NEXT_CERTIFICATE, NEXT_KEY):
            (folder / name).unlink(missing_ok=True)
            fsync_folder(folder)


def is_pair(key: Path, certificate: Path) -> bool:
    """Check whether a certificate is for a key.

    Raises:
        IdentityError: one of them is missing or damaged.
    """
    public = _parse_certificate(certificate, _read(certificate)).public_key()
    return public == _parse_key(key, _read(key)).public_key()


def check_renewed(
    folder: Path,
    *,
    node: str,
    key_pem: bytes,
    certificate_pem: bytes,
    ca_pem: bytes,
    ca_signature: bytes = b"",
    now: Clock = utc_now,
) -> None:
    """Check the answer to a renewal, before anything of it is kept.

    Raises:
        IdentityError: the certificate is not for this key, name or CA, or not valid
            now; the answer's authorities leave out that of the present certificate;
            or one of them is new here, and none that is known has signed it.
    """
    known = _parse_certificates(folder / CA, _read(folder / CA))
    for authority in _parse_certificates(folder / CA, ca_pem):
        if authority not in known:
            _check_vouched(authority, known, ca_signature)
    root_json = _read(folder / ROOT)
    _check(folder, node, (key_pem, certificate_pem, ca_pem, root_json), None, now())
    # A kill may leave the old pair with the new authorities.
    kept = tuple(_read(folder / name) for name in (KEY, CERTIFICATE))
    _check(folder, node, (*kept, ca_pem, root_json), None, now())


def _check_vouched(
    authority: x509.Certificate, known: list[x509.Certificate], signature: bytes
) -> None:
    """Accept an authority that one of those known has signed."""
    data = authority.public_bytes(serialization.Encoding.DER)
    for each in known:
        key = each.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            with contextlib.suppress(InvalidSignature):
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
                return
    raise IdentityError(
        "the gateway's answer names another authority, which the present one has not "
        "signed: it is not trusted, and the present certificate stays; have the "
        "gateway looked at, its key may be stolen (or its takt is older than this one)"
    )


def load_identity(folder: Path, *, node: str, now: Clock = utc_now) -> Identity:
    """Read and check the identity before anything connects.

    Raises:
        IdentityError: a file is missing or damaged, the key is readable by
            others, the certificate is another node's or CA's, or it is not
            valid now, or the channel is no name; the message names the file, the
            dates and the fix.
    """
    pems = tuple(_read(folder / name) for name in (KEY, CERTIFICATE, CA, ROOT))
    mode = stat.S_IMODE((folder / KEY).stat().st_mode)
    if mode & 0o077:
        raise IdentityError(
            f"{folder / KEY} has mode {mode:04o}, expected 0600; others could have "
            f"read the key: remove it and {ENROLL_HINT}"
        )
    named, channel = folder / CHANNEL, None
    if named.exists():
        channel = _read(named).decode("utf-8-sig", "replace").strip()
        if not is_name(channel):
            raise IdentityError(
                f"{named} names {channel[:80]!r}, expected {EXPECTED}; correct it, or "
                f"{ENROLL_HINT}"
            )
    return _check(folder, node, pems, channel, now())


def _check(
    folder: Path,
    node: str,
    pems: tuple[bytes, ...],
    channel: str | None,
    now: datetime,
) -> Identity:
    """Check key, certificate and CA against each other and the clock."""
    key_pem, certificate_pem, ca_pem, root_json = pems
    key = _parse_key(folder / KEY, key_pem)
    certificate = _parse_certificate(folder / CERTIFICATE, certificate_pem)
    authorities = _parse_certificates(folder / CA, ca_pem)
    if certificate.public_key() != key.public_key():
        raise IdentityError(
            f"{folder / CERTIFICATE} is not for the key in {folder / KEY}; "
            f"sign {REQUEST} again, or {ENROLL_HINT}"
        )
    subject = common_name(certificate)
    if subject != node:
        raise IdentityError(
            f"{folder / CERTIFICATE} is for node '{subject}', expected '{node}'; "
            f"correct `node` in edge.toml, or {ENROLL_HINT}"
        )
    authority = next((a for a in authorities if _issued(a, certificate)), None)
    if authority is None:
        names = ", ".join(f"'{common_name(a)}'" for a in authorities)
        raise IdentityError(
            f"{folder / CERTIFICATE} was not issued by the CA in {folder / CA} "
            f"({names}); {ENROLL_HINT} of that project"
        )
    _check_dates(folder / CERTIFICATE, certificate, now, ENROLL_HINT)
    _check_dates(folder / CA, authority, now, "make a new project CA")
    return Identity(
        node=node,
        folder=folder,
        key_pem=key_pem,
        certificate_pem=certificate_pem,
        ca_pem=ca_pem,
        root_json=root_json,
        channel=channel,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_dates(
    path: Path, certificate: x509.Certificate, now: datetime, hint: str
) -> None:
    """Refuse a certificate that is not valid at `now`.

    Raises:
        ClockError: it is not valid yet: a device without a clock of its own has not
            set it.
        IdentityError: it has ended.
    """
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < first:
        raise ClockError(
            f"{path} is not valid before {first:%Y-%m-%d %H:%M} UTC and this machine's "
            f"clock says {now:%Y-%m-%d %H:%M}; set the clock, or {hint}"
        )
    if now > last:
        raise IdentityError(
            f"{path} expired on {last:%Y-%m-%d %H:%M} UTC (now {now:%Y-%m-%d %H:%M}); "
            f"{hint}"
        )


def common_name(certificate: x509.Certificate) -> str:
    """Read the subject's common name; empty when there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise IdentityError(f"{path} is missing; {ENROLL_HINT}") from e
    except OSError as e:
        raise IdentityError(
            f"cannot read {path}: {e.strerror or e}; fix its permissions"
        ) from e


def _parse_key(path: Path, pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise IdentityError(
            f"{path} is not a private key; remove it and {ENROLL_HINT}"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(
            f"{path} is not an EC key, expected P-256; remove it and {ENROLL_HINT}"
        )
    return key


def _parse_certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as e:
        raise IdentityError(
            f"{path} is not a PEM certificate ({len(pem)} bytes); {ENROLL_HINT}"
        ) from e


def _parse_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    """Read the authorities: several while the project's authority is rotated."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise IdentityError(
            f"{path} is not a PEM certificate ({len(pem)} bytes); {ENROLL_HINT}"
        ) from e
