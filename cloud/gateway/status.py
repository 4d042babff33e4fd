"""What a gateway says of itself: one `Status`, shown as JSON, as text and as metrics.

What is wrong is the `Condition`'s word, which health checks and `takt cloud check` give
too; the rest are facts of the moment. Not here: the socket
(`cloud.gateway.status_page`) and counting (`cloud.gateway.traffic`).
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)

from cloud.fleet.database import Fleet
from cloud.gateway.certificate_ends import CertificateEnds
from cloud.gateway.condition import PARTS, Condition
from cloud.gateway.quarantine import Quarantine
from cloud.gateway.traffic import Traffic
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.clock import Clock
from common.errors import TaktError, one_line

SEEN_WITHIN = timedelta(minutes=1)  # a dozen heartbeats
_DAY_S = 86400.0


@dataclass(frozen=True)
class Status:
    """A gateway at a moment; times are UTC. What could not be read is None or empty."""

    time: datetime
    started: datetime
    problems: Mapping[str, str]
    """by part, as of the last look, at most a minute ago; empty: nothing to mend"""
    unreadable: tuple[str, ...]
    """what could not be read for this status, and why"""
    metadata_ends: Mapping[str, datetime]
    """by role"""
    gateway_certificate_ends: datetime | None
    authority_certificate_ends: datetime | None
    nearest_node: str | None
    """whose certificate ends first"""
    nearest_node_ends: datetime | None
    disk_free_bytes: int | None
    nodes_allowed: int | None
    nodes_seen: int | None
    """within the last minute"""
    quarantined: tuple[str, ...]
    calls: Mapping[str, int]
    """by method, since the gateway started"""
    refused: Mapping[str, int]
    """by status code, since the gateway started"""
    sent_bytes: int
    """of files, since the gateway started"""


class StatusSource:
    """Looks at a gateway; used by any thread."""

    def __init__(
        self,
        storage: StorageDir,
        repository: ReleaseRepository,
        fleet: Fleet,
        *,
        condition: Condition,
        certificates: CertificateEnds,
        quarantine: Quarantine,
        traffic: Traffic,
        clock: Clock,
    ) -> None:
        """Look at nothing yet; the gateway counts as started now."""
        self._storage = storage
        self._repository = repository
        self._fleet = fleet
        self._condition = condition
        self._certificates = certificates
        self._quarantine = quarantine
        self._traffic = traffic
        self._clock = clock
        self._started = clock()

    def look(self) -> Status:
        """Look now; never fails."""
        now, failures = self._clock(), list[str]()

        def reading(what: str, read: Any) -> Any:
            try:
                return read()
            except (TaktError, OSError) as e:
                failures.append(f"{what}: {one_line(e, 300)}")
                return None

        metadata = reading("metadata", self._repository.ends)
        ends = reading("certificates", self._certificates.look)
        nodes = reading("fleet", self._fleet.nodes)
        disk = reading("disk", lambda: shutil.disk_usage(self._storage.root))
        nearest = ends.nearest_node if ends else None
        return Status(
            time=now,
            started=self._started,
            problems=dict(self._condition.problems),
            unreadable=tuple(failures),
            metadata_ends=metadata or {},
            gateway_certificate_ends=ends.gateway if ends else None,
            authority_certificate_ends=ends.authority if ends else None,
            nearest_node=nearest,
            nearest_node_ends=ends.nodes[nearest] if nearest else None,
            disk_free_bytes=disk.free if disk else None,
            nodes_allowed=len(ends.nodes) if ends else None,
            nodes_seen=(
                None
                if nodes is None
                else sum(now - row.last_seen < SEEN_WITHIN for row in nodes)
            ),
            quarantined=self._quarantine.nodes(),
            calls=dict(self._traffic.calls),
            refused=dict(self._traffic.refused),
            sent_bytes=self._traffic.sent_bytes,
        )


def as_tree(status: Status) -> dict[str, Any]:
    """Return a status as JSON has it: times in ISO form."""
    tree = asdict(status)
    for field, value in tree.items():
        if isinstance(value, datetime):
            tree[field] = value.isoformat()
    tree["metadata_ends"] = {
        role: end.isoformat() for role, end in status.metadata_ends.items()
    }
    return tree


def as_text(status: Status) -> str:
    """Write a status for people, a line for each fact."""
    lines = [f"takt gateway, {status.time:%F %T} UTC, up since {status.started:%F %T}"]
    lines += [f"TO MEND  {part}: {why}" for part, why in status.problems.items()]
    lines += [f"TO MEND  cannot read {what}" for what in status.unreadable]
    if not status.problems and not status.unreadable:
        lines.append("nothing to mend")
    lines += [f"{name} ends in {days:.1f} days" for name, days in ends_in_days(status)]
    if status.disk_free_bytes is not None:
        lines.append(f"disk: {status.disk_free_bytes / 2**20:,.0f} MiB free")
    lines.append(
        f"nodes: {_or_unknown(status.nodes_seen)} seen within a minute, "
        f"{_or_unknown(status.nodes_allowed)} allowed, in quarantine: "
        f"{', '.join(status.quarantined) or 'none'}"
    )
    lines.append(f"sent: {status.sent_bytes:,} bytes of files")
    for what, counts in (("calls", status.calls), ("refused", status.refused)):
        found = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
        lines.append(f"{what}: {found or 'none'}")
    return "\n".join(lines) + "\n"


def ends_in_days(status: Status) -> Iterator[tuple[str, float]]:
    """Name each thing that ends, and in how many days."""
    found = {f"metadata {role}": end for role, end in status.metadata_ends.items()}
    if status.gateway_certificate_ends is not None:
        found["certificate gateway"] = status.gateway_certificate_ends
    if status.authority_certificate_ends is not None:
        found["certificate authority"] = status.authority_certificate_ends
    if status.nearest_node_ends is not None:
        found[f"certificate node {status.nearest_node}"] = status.nearest_node_ends
    for name, end in found.items():
        yield name, (end - status.time).total_seconds() / _DAY_S


def as_metrics(status: Status) -> Iterator[Metric]:
    """Write a status as Prometheus' metrics. What could not be read is left out."""
    problem = GaugeMetricFamily(
        "takt_gateway_problem",
        "1 while an operator must mend this part, as of the last look.",
        labels=["part"],
    )
    for part in PARTS:
        problem.add_metric([part.removeprefix("takt.")], part in status.problems)
    yield problem
    unreadable = "Things that could not be read for these metrics."
    yield _gauge("takt_gateway_unreadable", unreadable, len(status.unreadable))
    end = GaugeMetricFamily(
        "takt_gateway_end_days",
        "Days to the end of a role's metadata or of a certificate.",
        labels=["what", "name"],
    )
    for name, days in ends_in_days(status):
        kind, _, whose = name.partition(" ")
        # The node is named in the status: a label that changes makes many series.
        end.add_metric([kind, "node" if whose.startswith("node ") else whose], days)
    yield end
    for name, text, value in (
        ("takt_gateway_disk_free_bytes", "Free on its disk.", status.disk_free_bytes),
        ("takt_gateway_nodes_allowed", "On the allow-list.", status.nodes_allowed),
        ("takt_gateway_nodes_seen", "Within the last minute.", status.nodes_seen),
        ("takt_gateway_nodes_quarantined", "In quarantine.", len(status.quarantined)),
    ):
        if value is not None:
            yield _gauge(name, text, value)
    yield _counter("takt_gateway_calls", "Calls by method.", "method", status.calls)
    yield _counter(
        "takt_gateway_refused", "Calls that failed, by code.", "code", status.refused
    )
    sent = "Bytes of files, without framing."
    yield CounterMetricFamily("takt_gateway_sent_bytes", sent, status.sent_bytes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _or_unknown(count: int | None) -> str:
    return "?" if count is None else str(count)
