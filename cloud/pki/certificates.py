"""The form of takt's certificates: pure functions from keys and dates to X.509.

The authority's own certificate, those it signs (gateway and nodes), and the checks of a
signing request. Not here: files, the allow-list, TLS.
"""

import functools
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from common.address import parse_certificate_host
from common.errors import ConfigError

MAX_CSR_BYTES = 16 * 1024
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_SKEW = timedelta(minutes=10)  # a peer's clock may be this far behind ours


@dataclass(frozen=True)
class Issuer:
    """An authority: its certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Claim:
    """What a peer's certificate says of its holder."""

    name: str  # subject common name; empty: none, or several
    begins: datetime
    ends: datetime
    fingerprint: str  # see `fingerprint_of`


@functools.lru_cache(maxsize=4096)
def claim_of(certificate_pem: bytes) -> Claim:
    """Parse a peer's certificate, once however many calls it makes.

    What it says is a function of its bytes: nothing of it can go out of date here.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Claim(
        str(names[0].value) if len(names) == 1 else "",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        fingerprint_of(certificate),
    )


def make_issuer(*, now: datetime, lifetime: timedelta) -> Issuer:
    """Make a new authority (EC P-256, signs leaves only)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("takt project authority")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def make_leaf(
    issuer: Issuer,
    public_key: PublicKey,
    *,
    name: str,
    alternatives: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Sign a certificate for one purpose (server or client authentication)."""
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        issuer.key.public_key()
    )
    subject = issuer.certificate.subject
    return (
        _builder(_name(name), subject, public_key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(authority_key, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    key_identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(key_identifier, critical=False)
    )


def vouch(issuer: Issuer, certificate: x509.Certificate) -> bytes:
    """Sign another authority's certificate, for nodes that know this one alone."""
    data = certificate.public_bytes(serialization.Encoding.DER)
    return issuer.key.sign(data, ec.ECDSA(hashes.SHA256()))


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER form in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint_of(key: PublicKey) -> str:
    """Return the SHA-256 of a public key's DER form in hex."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    return hashlib.sha256(der).hexdigest()


def requested_key(csr_pem: bytes, node: str) -> PublicKey:
    """Check a signing request and return the key that it proves to own.

    Raises:
        ConfigError: it is malformed, for another name, or its key is too weak.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise ConfigError(
            f"signing request of node '{node}' has {len(csr_pem)} bytes, expected at "
            f"most {MAX_CSR_BYTES}"
        )
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        proven = request.is_signature_valid
        key = request.public_key()
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except Exception as e:  # the parser raises several kinds on hostile input
        raise ConfigError(
            f"signing request of node '{node}' is not a PEM signing request; make it "
            "with `takt edge enroll`"
        ) from e
    if not proven:
        raise ConfigError(
            f"signing request of node '{node}' is not signed by the key in it; make "
            "it again with `takt edge enroll`"
        )
    if names and [str(n.value) for n in names] != [node]:
        raise ConfigError(
            f"signing request is for {str(names[0].value)[:80]!r}, expected '{node}'"
        )
    strong_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048
    curves = ("secp256r1", "secp384r1")
    strong_ec = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in curves
    if not isinstance(key, PublicKey) or not (strong_rsa or strong_ec):
        raise ConfigError(
            f"key of node '{node}' is too weak or of an unusual kind; expected EC "
            "P-256 or P-384, or RSA of 2048 bits or more"
        )
    return key


def general_name(host: str) -> x509.GeneralName:
    """Turn a host into an IP address or DNS name of a certificate.

    Raises:
        ConfigError: it is neither.
    """
    try:
        known = parse_certificate_host(host)
    except ValueError as e:
        raise ConfigError(
            f"host {host!r} is neither an IP address nor a name: {e}"
        ) from e
    try:
        return x509.IPAddress(ipaddress.ip_address(known))
    except ValueError:
        return x509.DNSName(known)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Serialise a private key (PKCS 8, no password)."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(certificate: x509.Certificate) -> bytes:
    """Serialise a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)
