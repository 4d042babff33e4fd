"""Which nodes may join, and with which certificate: the file allow.json.

One entry a node: invited (a one-time token is out), allowed (its latest
certificate may connect) or revoked. Several processes share the file (the
gateway, the command line): writers take a lock and replace it in one step,
readers notice by its stat. A renewed certificate is let in at its first use; that it
takes the old one's place is written later, for a call waits for no lock and no disk.
Not here: what an entry holds (`entries`), keys and signatures (`cloud.pki.authority`),
and TLS itself.
"""

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cloud.errors import QuotaError
from cloud.pki.entries import Answer, Entry, Renewed, Signed
from cloud.trail import Trail
from common.clock import Clock, utc_now
from common.durable import locked, write_atomic
from common.errors import ConfigError, IdentityError, StorageError, one_line
from common.names import EXPECTED, is_name

PROBE = "takt-cloud-check"  # asks for the health, and is let in for nothing else
TOKEN_LIFETIME = timedelta(days=7)
ANSWER_LIFETIME = timedelta(minutes=10)  # longer than a node tries to enrol
RENEWAL_PAUSE = timedelta(minutes=10)  # between a node's renewals for different keys


def check_node_name(node: str) -> str:
    """Return the name if it is one.

    Raises:
        ConfigError: it is not 1 to 63 of a-z, 0-9, '-' and '_', or the probe's.
    """
    if node == PROBE:
        raise ConfigError(f"node name '{node}' is taken by takt; choose another one")
    if not is_name(node):
        raise ConfigError(f"node name {node[:80]!r}: expected {EXPECTED}")
    return node


class _Document(BaseModel):
    nodes: dict[str, Entry] = {}


class AllowList:
    """The list in one file; every method sees what other processes wrote."""

    def __init__(self, path: Path, trail: Trail, *, clock: Clock = utc_now) -> None:
        """Use the file at `path`; a missing file is an empty list.

        Each change is recorded in `trail` before it is made.
        """
        self.path = path
        self._trail = trail
        self._clock = clock
        # Which state of the file was read, and what it held: one value, for calls of
        # several threads may read it at once, and an old list beside a new state would
        # keep a revoked node in.
        self._read: tuple[tuple[int, int, int] | None, dict[str, Entry]] = (None, {})
        self._used: dict[str, Renewed] = {}  # let in by `check`, and not written yet

    @property
    def state(self) -> object:
        """Return what identifies the list as it was last read, without a look at it.

        Another object as soon as `entries` has found that the file has changed.
        """
        return self._read

    def entries(self) -> dict[str, Entry]:
        """Return all entries by node, re-read when the file has changed.

        Raises:
            StorageError: the file cannot be read or is damaged.
        """
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            before, entries = self._read
            if seen != before:
                text = self.path.read_bytes()
                entries = _Document.model_validate_json(text).nodes
                self._read = seen, entries
        except FileNotFoundError:
            before, entries = self._read
            if before is not None:
                entries = {}
                self._read = None, entries
        except (OSError, ValidationError) as e:
            raise StorageError(
                f"cannot read the allow-list {self.path}: "
                f"{one_line(e)}; restore it from a backup or remove "
                "it and allow the nodes again"
            ) from e
        return entries

    def issue_token(self, node: str, *, lifetime: timedelta = TOKEN_LIFETIME) -> str:
        """Let a node enrol once and return the token for it.

        A node that is allowed stays so with its present certificate until it
        enrols again; an older token is void.

        Raises:
            ConfigError: the name is not one.
            StorageError: the list cannot be read or written.
        """
        check_node_name(node)
        token = secrets.token_urlsafe(24)
        now = self._clock()
        with self._changing() as entries:
            old = entries.get(node)
            kept = old if old and old.state == "allowed" else Entry(state="invited")
            entries[node] = kept.model_copy(
                update={
                    "token_sha256": _sha256(token),
                    "token_expires": now + lifetime,
                    "invited": now,
                    "answer": None,
                }
            )
            self._trail.record("allow", node)
        return token

    def bind(self, node: str, signed: Signed, *, token: str | None) -> bytes:
        """Bind a node to a new certificate; older ones of it stop being accepted.

        The answer to a node may be lost on the way: for ten minutes the same token is
        traded for the same certificate, if it comes with the same key.

        Args:
            node: its name.
            signed: the new certificate.
            token: the one-time token, used up by this; None for an operator who
                signs by hand.

        Returns:
            The certificate that the node is bound to now (PEM).

        Raises:
            IdentityError: the token is not the one that is out, or has expired.
            StorageError: the list cannot be read or written.
        """
        with self._changing() as entries:
            old = entries.get(node)
            answer = None
            if token is not None:
                given = self._given(old, token)
                if given and given.key_sha256 == signed.key_sha256:
                    return given.certificate_pem.encode()
                self._check_token(node, old, token)
                answer = Answer(
                    token_sha256=_sha256(token),
                    key_sha256=signed.key_sha256,
                    certificate_pem=signed.pem.decode(),
                    expires=self._clock() + ANSWER_LIFETIME,
                )
            by_hand = token is None
            self._trail.record(
                "sign" if by_hand else "enrol",
                node,
                digest=signed.certificate_sha256,
                who=None if by_hand else f"node {node}",
            )
            entries[node] = Entry(
                state="allowed",
                certificate_sha256=signed.certificate_sha256,
                serial=f"{signed.serial:x}",
                ends=signed.ends,
                issuer_sha256=signed.issuer_sha256,
                invited=old.invited if old else None,
                allowed=self._clock(),
                answer=answer,
            )
        return signed.pem

    def renew(self, node: str, signed: Signed, *, presented_sha256: str) -> bytes:
        """Give an allowed node another certificate; the present one stays valid.

        The new one takes its place when the node first uses it (see `check`). The
        answer may be lost on the way, or the node may die: the same key is given the
        same certificate again.

        Args:
            node: its name, which `check` has accepted.
            signed: the new certificate.
            presented_sha256: the certificate that it was accepted with; looked at
                again here, for the node may have enrolled anew meanwhile.

        Returns:
            The certificate to hand out (PEM).

        Raises:
            IdentityError: as `check`.
            QuotaError: it was given one for another key a short time ago.
            StorageError: the list cannot be read or written.
        """
        now = self._clock()
        with self._changing() as entries:
            old = _accepted(node, entries.get(node), presented_sha256)
            if old.next and old.next.key_sha256 == signed.key_sha256:
                if old.next.issuer_sha256 == signed.issuer_sha256:
                    return old.next.certificate_pem.encode()
            elif old.renewed and now < old.renewed + RENEWAL_PAUSE:
                raise QuotaError(
                    f"node '{node}' was given a certificate for another key at "
                    f"{old.renewed:%F %R} UTC; try again {RENEWAL_PAUSE} later"
                )
            self._trail.record(
                "renew", node, digest=signed.certificate_sha256, who=f"node {node}"
            )
            following = Renewed(
                certificate_sha256=signed.certificate_sha256,
                serial=f"{signed.serial:x}",
                key_sha256=signed.key_sha256,
                certificate_pem=signed.pem.decode(),
                ends=signed.ends,
                issuer_sha256=signed.issuer_sha256,
            )
            update = {"next": following, "renewed": now}
            entries[node] = old.model_copy(update=update)
        return signed.pem

    def check_token(self, node: str, token: str) -> None:
        """Check a token without using it up; see `bind` for what it raises."""
        entry = self.entries().get(node)
        if self._given(entry, token) is None:
            self._check_token(node, entry, token)

    def revoke(self, node: str) -> None:
        """Refuse a node from now on: its certificate and any token that is out.

        Raises:
            ConfigError: the list has no such node.
            StorageError: the list cannot be read or written.
        """
        with self._changing() as entries:
            if node not in entries:
                known = ", ".join(sorted(entries)) or "none"
                raise ConfigError(
                    f"node '{node[:80]}' is not on the allow-list; known: {known}"
                )
            entries[node] = entries[node].model_copy(
                update={
                    "state": "revoked",
                    "token_sha256": None,
                    "token_expires": None,
                    "revoked": self._clock(),
                    "answer": None,
                }
            )
            self._trail.record("revoke", node)

    def check(self, node: str, certificate_sha256: str) -> None:
        """Accept a node that presents this certificate, or raise; nothing is written.

        A renewed certificate takes the old one's place by its first use, as soon as
        that is written (`note_used`); until then both are accepted.

        Raises:
            IdentityError: unknown, revoked, or not its latest certificate.
            StorageError: the list cannot be read.
        """
        following = _accepted(node, self.entries().get(node), certificate_sha256).next
        if following and following.certificate_sha256 == certificate_sha256:
            self._used[node] = following

    def note_used(self) -> None:
        """Write which renewed certificates were used: the old ones end by it.

        Every other change of the list writes it as well.

        Raises:
            StorageError: the list cannot be read or written, or another process is
                changing it; what was used is kept for the next time.
        """
        if self._used:
            with self._changing(wait=False):
                pass

    def _given(self, entry: Entry | None, token: str) -> Answer | None:
        """Return what a token was traded for a short time ago."""
        answer = entry.answer if entry else None
        if answer is None or self._clock() >= answer.expires:
            return None
        is_same = hmac.compare_digest(_sha256(token), answer.token_sha256)
        return answer if is_same else None

    def _check_token(self, node: str, entry: Entry | None, token: str) -> None:
        # The same message for an unknown node and a wrong token: no probing for names.
        refused = IdentityError(
            f"the token for node '{node}' is wrong or was used already; get a new one "
            f"with `takt pki allow {node}`"
        )
        if entry is None or entry.token_sha256 is None or entry.token_expires is None:
            raise refused
        if not hmac.compare_digest(_sha256(token), entry.token_sha256):
            raise refused
        if self._clock() > entry.token_expires:
            raise IdentityError(
                f"the token for node '{node}' expired {entry.token_expires:%F %R} UTC; "
                f"get a new one with `takt pki allow {node}`"
            )

    @contextlib.contextmanager
    def _changing(self, *, wait: bool = True) -> Iterator[dict[str, Entry]]:
        """Hold the writers' lock, yield a copy of the entries, write what changed."""
        busy = None if wait else self._busy
        with locked(self.path.with_name(f".{self.path.name}.lock"), busy=busy):
            before = self.entries()
            entries = dict(before)
            used = dict(self._used)  # meanwhile other threads may add to it
            for node, renewed in used.items():
                _put_in_place(entries, node, renewed)
            yield entries
            if entries != before:
                document = _Document(nodes=dict(sorted(entries.items())))
                data = document.model_dump_json(indent=1).encode() + b"\n"
                write_atomic(self.path, data, point="allow", mode=0o600)
                self.entries()  # so that its `state` is another one at once
            for node, renewed in used.items():
                if self._used.get(node) is renewed:
                    del self._used[node]

    def _busy(self, holder: str) -> str:
        return f"another process is changing {self.path}"


def _accepted(node: str, entry: Entry | None, certificate_sha256: str) -> Entry:
    """Return the entry of a node that presents a certificate; see `AllowList.check`."""
    fix = f"run `takt pki allow {node}` at the gateway and enrol the node again"
    if entry is None or (entry.state == "invited" and not entry.certificate_sha256):
        raise IdentityError(f"node '{node}' is not on the allow-list; {fix}")
    if entry.state == "revoked":
        raise IdentityError(f"node '{node}' is revoked; to take it back, {fix}")
    latest = [entry.certificate_sha256]
    if entry.next:
        latest.append(entry.next.certificate_sha256)
    if certificate_sha256 not in latest:
        raise IdentityError(
            f"node '{node}' presents certificate {certificate_sha256[:12]}, but "
            f"{str(entry.certificate_sha256)[:12]} was issued to it later; two "
            f"nodes share the name, or it kept an old certificate: {fix}"
        )
    return entry


def _put_in_place(entries: dict[str, Entry], node: str, renewed: Renewed) -> None:
    """Put a renewed certificate in the place of the old one, if it still may be."""
    entry = entries.get(node)
    if entry is not None and entry.state == "allowed" and entry.next == renewed:
        update = {
            "certificate_sha256": renewed.certificate_sha256,
            "serial": renewed.serial,
            "ends": renewed.ends,
            "issuer_sha256": renewed.issuer_sha256,
            "next": None,
        }
        entries[node] = entry.model_copy(update=update)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
