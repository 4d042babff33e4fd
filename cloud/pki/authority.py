"""The project's own certificate authority, and the certificates that it signs.

A folder with ca.key and ca.crt (EC P-256), server.key and server.crt for the gateway,
and allow.json. While the authority is rotated, next.key is there too, and ca.crt holds
both certificates: nodes and gateway trust both. Nodes make their own keys; the
authority only sees signing requests. Not here: the rules of the allow-list
(`cloud.pki.allowlist`), the keys that sign releases (`cloud.publishing.signing_keys`),
revocation lists: a certificate counts only while the allow-list names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.pki.allowlist import PROBE, AllowList, check_node_name
from cloud.pki.certificates import (
    Issuer,
    claim_of,
    fingerprint_of,
    general_name,
    key_fingerprint_of,
    key_pem,
    make_issuer,
    make_leaf,
    pem,
    requested_key,
    vouch,
)
from cloud.pki.entries import Signed
from cloud.trail import Trail, trail_beside
from common.clock import Clock, utc_now
from common.durable import fsync_folder, locked, make_folder, storing, write_atomic
from common.errors import ConfigError, IdentityError, StorageError

ALWAYS = ("localhost", "127.0.0.1")  # names of every gateway
_PROBE_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True)
class Lifetimes:
    """How long what the authority signs is valid."""

    authority: timedelta = timedelta(days=3650)
    server: timedelta = timedelta(days=365)
    node: timedelta = timedelta(days=30)  # renewed by itself in the last third

    @classmethod
    def of(cls, node_days: float, server_days: float) -> "Lifetimes":
        """Take those of a gateway's config."""
        return cls(node=timedelta(days=node_days), server=timedelta(days=server_days))


@dataclass(frozen=True)
class Credentials:
    """What an end of a TLS connection needs, in PEM."""

    key: bytes
    certificate: bytes
    ca: bytes


class Authority:
    """The authority kept in one folder; see the module's docstring."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock = utc_now,
        lifetimes: Lifetimes = Lifetimes(),
        trail: Trail | None = None,
    ) -> None:
        """Use `folder`; nothing is read or made before a method needs it.

        Args:
            folder: of the authority.
            clock: the wall clock, UTC.
            lifetimes: of what is signed from now on.
            trail: takes what is done; None: that of the storage folder around.
        """
        self.folder = folder
        self.trail = trail or trail_beside(folder, clock=clock)
        self.allow_list = AllowList(folder / "allow.json", self.trail, clock=clock)
        self._clock = clock
        self._lifetimes = lifetimes

    def init(self) -> None:
        """Make the authority's key and certificate, unless they are there.

        Raises:
            StorageError: the folder cannot be written.
        """
        make_folder(self.folder, mode=0o700)
        with locked(self.folder / ".lock"):
            if (self.folder / "ca.crt").exists():
                return
            issuer = make_issuer(now=self._clock(), lifetime=self._lifetimes.authority)
            # The certificate last: where it is, the key is as well.
            write_atomic(self.folder / "ca.key", key_pem(issuer.key), mode=0o600)
            write_atomic(self.folder / "ca.crt", pem(issuer.certificate))

    def begin_rotation(self) -> None:
        """Make the next authority, unless there is one: trusted, and signing for nodes.

        The present one signs the gateway's certificate on, for nodes that do not know
        the next one; they learn it with the answer to their renewal.

        Raises:
            StorageError: the folder has no authority or cannot be written.
        """
        with locked(self.folder / ".lock"):
            if len(self._authorities()) > 1:
                return
            issuer = make_issuer(now=self._clock(), lifetime=self._lifetimes.authority)
            self.trail.record(
                "rotate", "authority", digest=fingerprint_of(issuer.certificate)
            )
            write_atomic(
                self.folder / "next.key",
                key_pem(issuer.key),
                point="authority.next",
                mode=0o600,
            )
            both = self.ca_pem() + pem(issuer.certificate)
            write_atomic(self.folder / "ca.crt", both, point="authority.both")

    def end_rotation(self) -> None:
        """Drop the old authority, once every node has a certificate of the next one.

        Raises:
            ConfigError: no rotation has begun, or nodes still have certificates of the
                old authority; they are named.
            StorageError: the folder has no authority or cannot be written.
        """
        with locked(self.folder / ".lock"):
            *old, following = self._authorities()
            if not old:
                raise ConfigError(
                    "no rotation of the authority has begun; begin one with `takt pki "
                    "rotate authority`"
                )
            fingerprint = fingerprint_of(following)
            behind = [
                node
                for node, entry in self.allow_list.entries().items()
                if entry.state == "allowed" and entry.issuer_sha256 != fingerprint
            ]
            if behind:
                raise ConfigError(
                    "nodes with a certificate of the old authority: "
                    f"{', '.join(behind)[:200]}; each renews in the last third of its "
                    "certificate's life: wait, or `takt pki revoke` those that are gone"
                )
            self.trail.record("rotated", "authority", digest=fingerprint)
            with storing(self.folder):
                if (self.folder / "next.key").exists():
                    (self.folder / "next.key").replace(self.folder / "ca.key")
                    fsync_folder(self.folder)
            write_atomic(self.folder / "ca.crt", pem(following), point="authority.one")

    def ca_signature(self) -> bytes:
        """Return the present authority's signature of the next; b"" without a next.

        Raises:
            StorageError: the authority cannot be read.
        """
        _, *following = self._authorities()
        return vouch(self._issuer(), following[0]) if following else b""

    def ca_pem(self) -> bytes:
        """Return the authority's certificate, for nodes to check the gateway by.

        Two, the old one first, while the authority is rotated.
        """
        return self._read("ca.crt")

    def server_credentials(self, hosts: Sequence[str] = ()) -> Credentials:
        """Return the gateway's key and certificate, made anew when they must be.

        Args:
            hosts: names and addresses that nodes reach the gateway by; localhost
                and 127.0.0.1 are always added.

        Raises:
            ConfigError: a host is neither a name nor an address.
            StorageError: the folder has no authority or cannot be written.
        """
        wanted = tuple(dict.fromkeys((*hosts, *ALWAYS)))
        issuer = self._issuer()
        with locked(self.folder / ".lock"):
            if not self._server_certificate_serves(wanted, issuer):
                key = ec.generate_private_key(ec.SECP256R1())
                certificate = make_leaf(
                    issuer,
                    key.public_key(),
                    name=wanted[0],
                    alternatives=[general_name(host) for host in wanted],
                    purpose=ExtendedKeyUsageOID.SERVER_AUTH,
                    now=self._clock(),
                    lifetime=self._lifetimes.server,
                )
                fingerprint = fingerprint_of(certificate)
                self.trail.record("renew", "the gateway", digest=fingerprint)
                # A kill between the two leaves a pair that does not match, which
                # the check above sees.
                write_atomic(self.folder / "server.key", key_pem(key), mode=0o600)
                write_atomic(self.folder / "server.crt", pem(certificate))
            return Credentials(
                self._read("server.key"), self._read("server.crt"), self.ca_pem()
            )

    def probe_credentials(self) -> Credentials:
        """Return a key and a client certificate for asking the gateway's health.

        It is on no allow-list: the node port answers it nothing else, for ten minutes.

        Raises:
            StorageError: the authority cannot be read.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = make_leaf(
            self._issuer(),
            key.public_key(),
            name=PROBE,
            alternatives=[x509.DNSName(PROBE)],
            purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
            now=self._clock(),
            lifetime=_PROBE_LIFETIME,
        )
        return Credentials(key_pem(key), pem(certificate), self.ca_pem())

    def allow(self, node: str) -> str:
        """Let a node enrol once; return its token. See `AllowList.issue_token`."""
        return self.allow_list.issue_token(node)

    def revoke(self, node: str) -> None:
        """Refuse a node from now on. See `AllowList.revoke`."""
        self.allow_list.revoke(node)

    def enroll(self, node: str, token: str, csr_pem: bytes) -> bytes:
        """Trade a one-time token and a signing request for a certificate (PEM).

        For ten minutes the same trade gives the same certificate again.

        Raises:
            ConfigError: the name or the request is not acceptable.
            IdentityError: the token is wrong, used or expired.
            StorageError: the folder cannot be read or written.
        """
        check_node_name(node)
        self.allow_list.check_token(node, token)
        return self._sign(csr_pem, node, token=token)

    def sign(self, csr_pem: bytes, node: str) -> bytes:
        """Sign a request by hand and put the node on the allow-list.

        The certificate has the node's name as subject common name and as DNS name,
        whatever the request asks for.

        Raises:
            ConfigError: the name or the request is not acceptable.
            StorageError: the folder cannot be read or written.
        """
        return self._sign(csr_pem, check_node_name(node), token=None)

    def renew(self, presented_pem: bytes, csr_pem: bytes) -> bytes:
        """Give the node that presents a certificate another one. See `AllowList.renew`.

        Raises:
            ConfigError: the request is not acceptable.
            IdentityError: as `check`.
            QuotaError: the node renews too often.
            StorageError: the folder cannot be read or written.
        """
        node = self.check(presented_pem)
        return self.allow_list.renew(
            node,
            self._signed(csr_pem, node),
            presented_sha256=claim_of(presented_pem).fingerprint,
        )

    def check(self, certificate_pem: bytes) -> str:
        """Return the name of the node that presents this certificate.

        The signature was checked by TLS; here: its dates and the allow-list, both at
        every call. What the certificate says is parsed at its first call only.

        Raises:
            IdentityError: it names no node, is out of date, or is not allowed.
            StorageError: the allow-list cannot be read.
        """
        claim = claim_of(certificate_pem)
        try:
            node = check_node_name(claim.name)
        except ConfigError as e:
            raise IdentityError(f"the certificate names no node: {e}") from e
        now = self._clock()
        if not claim.begins <= now <= claim.ends:
            raise IdentityError(
                f"the certificate of node '{node}' is valid from "
                f"{claim.begins:%F %R} to {claim.ends:%F %R} UTC, now is "
                f"{now:%F %R}; run `takt pki allow {node}` and enrol the node again"
            )
        self.allow_list.check(node, claim.fingerprint)
        return node

    def _sign(self, csr_pem: bytes, node: str, *, token: str | None) -> bytes:
        return self.allow_list.bind(node, self._signed(csr_pem, node), token=token)

    def _signed(self, csr_pem: bytes, node: str) -> Signed:
        key = requested_key(csr_pem, node)
        issuer = self._issuer_of_nodes()
        certificate = make_leaf(
            issuer,
            key,
            name=node,
            alternatives=[x509.DNSName(node)],
            purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
            now=self._clock(),
            lifetime=self._lifetimes.node,
        )
        return Signed(
            pem(certificate),
            fingerprint_of(certificate),
            certificate.serial_number,
            key_fingerprint_of(key),
            certificate.not_valid_after_utc,
            fingerprint_of(issuer.certificate),
        )

    def _server_certificate_serves(self, hosts: Sequence[str], issuer: Issuer) -> bool:
        """Tell whether the present server certificate can still be used."""
        try:
            certificate = x509.load_pem_x509_certificate(self._read("server.crt"))
            key = serialization.load_pem_private_key(self._read("server.key"), None)
            certificate.verify_directly_issued_by(issuer.certificate)
            names = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
        except (StorageError, ValueError, InvalidSignature, x509.ExtensionNotFound):
            return False
        # Renewed in the last third of its life.
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        renewal = end - (end - begin) / 3
        return (
            certificate.public_key() == key.public_key()
            and all(general_name(host) in names for host in hosts)
            and self._clock() < renewal
        )

    def _issuer(self) -> Issuer:
        """Return who signs the gateway's certificate."""
        return self._issuer_of("ca.key")

    def _issuer_of_nodes(self) -> Issuer:
        rotating = len(self._authorities()) > 1 and (self.folder / "next.key").exists()
        return self._issuer_of("next.key" if rotating else "ca.key")

    def _issuer_of(self, name: str) -> Issuer:
        try:
            key = serialization.load_pem_private_key(self._read(name), None)
        except ValueError as e:
            raise self._damaged(name, e) from e
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StorageError(f"{self.folder / name} is not an EC private key")
        for certificate in self._authorities():
            if certificate.public_key() == key.public_key():
                return Issuer(certificate, key)
        raise self._damaged(name, "no certificate in ca.crt is for that key")

    def _authorities(self) -> list[x509.Certificate]:
        """Read ca.crt: the authority, or the old and the next one."""
        try:
            return x509.load_pem_x509_certificates(self._read("ca.crt"))
        except ValueError as e:
            raise self._damaged("ca.crt", e) from e

    def _damaged(self, name: str, why: object) -> StorageError:
        return StorageError(
            f"{name} in {self.folder} is damaged: {why}; restore ca.key and ca.crt "
            "from a backup (a new authority means enrolling every node again)"
        )

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise StorageError(
                f"cannot read {self.folder / name}: {e.strerror}; make the authority "
                "with `takt pki init` or fix its permissions"
            ) from e
