"""Renewing a node's certificate, in the last third of its life, while it works.

A new key, a signing request over the node port, and the answer; the old certificate
stays valid until the new one was used. Each step is durable before the next one:

    next.key    the new key, before it is asked for
    next.crt    the answer, checked against the key: from here on the new one counts
    node.key, node.crt    replaced by these two

A kill before next.crt leaves the old identity, and the next renewal asks for the same
key again; one after it leaves the new identity, which `finish_renewal` puts in place.
An enrolment is later than a renewal that is under way, and ends it; the steps after
the answer and an enrolment take turns.
Not here: enrolment (edge/daemon/enrolment.py), the checks (edge/credentials.py), the
authority's side (cloud/pki).
"""

import logging
import random
import threading
from datetime import timedelta
from pathlib import Path

from common import faults
from common.clock import Clock, utc_now
from common.durable import fsync_folder, storing, write_atomic
from common.errors import IdentityError, Interrupted, TaktError
from common.pb import takt_pb2
from edge.credentials import (
    CA,
    CERTIFICATE,
    KEY,
    NEXT_CERTIFICATE,
    NEXT_KEY,
    Identity,
    being_changed,
    check_renewed,
    is_pair,
    load_identity,
    make_key,
    request_of,
)
from edge.link.client import Link

logger = logging.getLogger(__name__)

_MAX_PAUSE_S, _MIN_PAUSE_S = 3600.0, 1.0
_TRIES = 20  # so many in what remains of a certificate, where it is short


def finish_renewal(folder: Path) -> bool:
    """Put a renewed key and certificate in place that were left beside it.

    Returns:
        Whether there were any.

    Raises:
        IdentityError: the renewed certificate, or the key in place, is damaged.
        StorageError: the folder cannot be written.
    """
    if not (folder / NEXT_CERTIFICATE).exists():
        return False
    with being_changed(folder):
        return _place(folder)


def _place(folder: Path) -> bool:
    """Do what `finish_renewal` says, with the folder's lock held."""
    key, certificate = folder / NEXT_KEY, folder / NEXT_CERTIFICATE
    with storing(folder):
        if not certificate.exists():
            return False
        if key.exists() and is_pair(key, certificate):
            key.replace(folder / KEY)
            fsync_folder(folder)
        elif not is_pair(folder / KEY, certificate):  # of a key that is gone
            certificate.unlink()
            return False
        faults.point("edge.renewal.half_placed")
        certificate.replace(folder / CERTIFICATE)
        fsync_folder(folder)
    faults.point("edge.renewal.placed")
    return True


def renew(link: Link, folder: Path, *, node: str, now: Clock = utc_now) -> Identity:
    """Renew the certificate once, and connect with it.

    Where an earlier renewal broke off after its answer, that one is ended.

    Args:
        link: to the gateway, with the present certificate.
        folder: the identity folder.
        node: its name.
        now: the wall clock, UTC.

    Returns:
        The new identity, which is in place: the renewed one, or that of an enrolment
        which was stored while the gateway answered.

    Raises:
        LinkError: the gateway did not answer.
        IdentityError: it refuses this node, or its answer does not fit the new key.
        StorageError: the folder cannot be written.
    """
    if not finish_renewal(folder):
        _ask(link, folder, node, now)
    link.connection.reopen()
    return load_identity(folder, node=node, now=now)


def _ask(link: Link, folder: Path, node: str, now: Clock) -> None:
    """Ask for a certificate, and take it unless the node was enrolled meanwhile."""
    with storing(folder):
        present = (folder / CERTIFICATE).read_bytes()
    make_key(folder / NEXT_KEY, point="edge.renewal.key")
    response = link.renew(request_of(folder / NEXT_KEY, node))
    faults.point("edge.renewal.answered")
    with being_changed(folder), storing(folder):
        if (folder / CERTIFICATE).read_bytes() == present:
            _take(response, folder, node, now)


def _take(
    response: takt_pb2.RenewResponse, folder: Path, node: str, now: Clock
) -> None:
    """Check the answer and put it in place, with the folder's lock held."""
    check_renewed(
        folder,
        node=node,
        key_pem=(folder / NEXT_KEY).read_bytes(),
        certificate_pem=response.certificate_pem,
        ca_pem=response.ca_pem,
        ca_signature=response.ca_signature,
        now=now,
    )
    if response.ca_pem != (folder / CA).read_bytes():
        # First: it fits the old certificate as well.
        write_atomic(folder / CA, response.ca_pem, point="edge.renewal.ca")
    write_atomic(
        folder / NEXT_CERTIFICATE, response.certificate_pem, point="edge.renewal.crt"
    )
    _place(folder)


class Renewal:
    """Renews in time, from a thread of its own."""

    def __init__(
        self,
        link: Link,
        identity: Identity,
        *,
        stop: threading.Event,
        rng: random.Random,
        now: Clock = utc_now,
    ) -> None:
        """Prepare.

        Args:
            link: to the gateway.
            identity: the present one.
            stop: set it to end the thread.
            rng: of the jitter, which keeps a fleet from renewing at once.
            now: the wall clock, UTC.
        """
        self._link = link
        self._identity = identity
        self._stop = stop
        self._rng = rng
        self._now = now
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    @property
    def is_due(self) -> bool:
        """Tell whether the certificate is in the last third of its life."""
        life = self._identity.not_after - self._identity.not_before
        return self._now() >= self._identity.not_after - life / 3

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait for the thread to end; `stop` must be set."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            if self.is_due:
                self._try()
            pause_s = self._pause_s() * self._rng.uniform(0.5, 1.0)
            if self._stop.wait(pause_s):
                return

    def _try(self) -> None:
        folder, node = self._identity.folder, self._identity.node
        try:
            self._identity = renew(self._link, folder, node=node, now=self._now)
        except Interrupted:
            return
        except (TaktError, OSError) as e:
            level = logging.ERROR if isinstance(e, IdentityError) else logging.INFO
            logger.log(level, "the certificate is not renewed yet: %s", e)
        else:
            end = f"{self._identity.not_after:%F %R}"
            logger.info("the certificate is renewed until %s UTC", end)

    def _pause_s(self) -> float:
        rest: timedelta = self._identity.not_after - self._now()
        return max(_MIN_PAUSE_S, min(_MAX_PAUSE_S, rest.total_seconds() / _TRIES))
