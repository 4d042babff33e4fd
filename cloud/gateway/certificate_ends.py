"""When certificates end: the gateway's, the authority's, the nodes'; and what is late.

The gateway renews its own, and nodes theirs, in the last third of their life. What has
less than a sixth left was not renewed. Not here: renewing
(`cloud.gateway.listeners`, edge/daemon/renewal.py).
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509

from cloud.fleet.database import Fleet
from cloud.pki.authority import Authority
from cloud.pki.certificates import claim_of
from common.clock import Clock
from common.errors import StorageError

AUTHORITY_NOTICE = timedelta(days=90)  # three lives of a node's certificate
LATE = 1 / 6  # of a certificate's life
SEEN_LATELY = timedelta(hours=1)  # a node that is off renews nothing


class Ends(NamedTuple):
    """Ends of certificates, UTC."""

    gateway: datetime
    authority: datetime  # of the first to end, while it is rotated
    nodes: dict[str, datetime]  # of allowed nodes; empty: none

    @property
    def nearest_node(self) -> str | None:
        """Return the node whose certificate ends first."""
        return min(self.nodes, key=lambda node: self.nodes[node], default=None)


class CertificateEnds:
    """Looks at the certificates of a project."""

    def __init__(
        self,
        authority: Authority,
        fleet: Fleet,
        presented: Callable[[], bytes],
        *,
        node_life: timedelta,
        clock: Clock,
    ) -> None:
        """Look at nothing yet.

        Args:
            authority: of the project.
            fleet: knows when a node was seen.
            presented: returns the gateway's certificate (PEM).
            node_life: of a node's certificate.
            clock: the wall clock, UTC.
        """
        self._authority = authority
        self._fleet = fleet
        self._presented = presented
        self._node_life = node_life
        self._clock = clock

    def look(self) -> Ends:
        """Return when they end.

        Raises:
            StorageError: the authority or the allow-list cannot be read.
        """
        try:
            authorities = x509.load_pem_x509_certificates(self._authority.ca_pem())
        except ValueError as e:
            raise StorageError(f"ca.crt is damaged: {e}") from e
        entries = self._authority.allow_list.entries()
        return Ends(
            claim_of(self._presented()).ends,
            min(certificate.not_valid_after_utc for certificate in authorities),
            {
                node: entry.ends
                for node, entry in entries.items()
                if entry.state == "allowed" and entry.ends is not None
            },
        )

    def check(self) -> None:
        """Check that no certificate is about to end that should have been renewed.

        Raises:
            StorageError: one is, each named with what to do; or see `look`.
        """
        now, ends = self._clock(), self.look()
        problems = []
        claim = claim_of(self._presented())
        if claim.ends - now < (claim.ends - claim.begins) * LATE:
            problems.append(
                f"the gateway's certificate ends on {claim.ends:%F %R} UTC and was not "
                "renewed; its log says why"
            )
        if ends.authority - now < AUTHORITY_NOTICE:
            problems.append(
                f"the authority's certificate ends on {ends.authority:%F %R} UTC; make "
                "the next one with `takt pki rotate authority`"
            )
        late = self._late_nodes(ends, now)
        if late:
            problems.append(
                f"nodes that are at work and have not renewed their certificate: "
                f"{', '.join(late)[:200]}; their logs say why"
            )
        if problems:
            raise StorageError("; ".join(problems))

    def _late_nodes(self, ends: Ends, now: datetime) -> list[str]:
        late = {
            n for n, end in ends.nodes.items() if end - now < self._node_life * LATE
        }
        if not late:
            return []
        return [
            f"{row.node} (ends on {ends.nodes[row.node]:%F %R} UTC)"
            for row in self._fleet.nodes()
            if row.node in late and now - row.last_seen < SEEN_LATELY
        ]
