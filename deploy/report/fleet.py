"""What an operator sees of a fleet: each node, its last sign of life, its last report.

A node's figures are its own: measured on the validation images that it has, not on test
images, which only a run of the simulation has (deploy/report/table.py). Not here: who
may join (`takt pki list`), what the database keeps (cloud/fleet/database.py).
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from google.protobuf.message import Message
from rich.console import Console

from cloud.fleet.database import Fleet, ReportRow, sqlite_url
from common.clock import Clock, utc_now
from common.records import Cap, CpuSeconds, Evaluation, Profile, Record, from_wire
from common.regular_file import is_there
from deploy.report.columns import MISSING, print_columns
from deploy.report.wording import describe_attack, percent
from deploy.runtime.terminal import plain

HEAD = (
    *("node", "state", "seen", "release", "student", "outcome"),
    *("clean %", "robust %", "as shipped", "own images"),
)
_WORDS = ("node", "state", "seen", "release", "student", "outcome")
_TROUBLE = ("failed", "refused")


class NodeReport(Record):
    """What a node made of a release, as it reported it; None: not measured."""

    time: datetime
    channel: str
    version: int
    student: str
    architecture: str
    num_parameters: int
    method: str
    seed: int
    profile: Profile | None
    cap: Cap | None
    cpu_s: CpuSeconds | None
    peak_memory_mib: float
    pulled_bytes: int
    live_bytes: int
    outcome: str
    message: str
    notes: tuple[str, ...]
    clean_accuracy: float | None = None
    robust: tuple[Evaluation, ...]
    """on the node's own validation images, where it has some, else on the release's"""
    release_clean_accuracy: float | None = None
    release_robust: tuple[Evaluation, ...]
    """on the release's"""
    shipped_own_robust: float | None = None
    """of the starting weights before any training, on the node's own"""
    shipped_release_robust: float | None = None
    as_shipped: bool
    """the starting weights are the student, since training did not improve them"""
    own_images: int
    own_labelled: int
    weights_sha256: str


class FleetNode(Record):
    """A node as its gateway knows it; times are UTC."""

    node: str
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    state: str | None = None
    version: int = 0
    progress: float = 0.0
    message: str = ""
    report: NodeReport | None = None
    """the newest"""


def read_fleet(database: Path) -> list[FleetNode]:
    """Read every node that was seen, by name, also while a gateway writes.

    Args:
        database: file of a storage folder; where it is missing none is made.

    Raises:
        StorageError: the database fails.
    """
    if not is_there(database):
        return []
    with closing(Fleet(sqlite_url(database))) as fleet:
        seen = {row.node: row for row in fleet.nodes()}
        reports = {row.node: _report(row) for row in fleet.newest_reports()}
    return [
        FleetNode.model_validate(
            {
                **(vars(seen[name]) if name in seen else {}),
                "node": name,
                "report": reports.get(name),
            }
        )
        for name in sorted({*seen, *reports})
    ]


def print_fleet(
    nodes: Sequence[FleetNode], console: Console, *, clock: Clock = utc_now
) -> None:
    """Print a row for each node, then what went wrong and what nodes noted."""
    now = clock()
    print_columns(console, HEAD, [_row(each, now) for each in nodes], left=_WORDS)
    console.print(f"[dim]{plain(_caption(nodes))}[/dim]", highlight=False)
    for node in nodes:
        lines = [node.message] if node.message else []
        report = node.report
        if report is not None:
            if report.outcome in _TROUBLE and report.message not in lines:
                lines.append(f"release {report.version}: {report.message}")
            if report.as_shipped:
                lines.append("as shipped, since training did not improve it")
            lines += [f"note: {note}" for note in report.notes]
        for line in lines:
            text = plain(f"{node.node}: {line}")
            console.print(text, highlight=False, soft_wrap=True)


def _report(row: ReportRow) -> NodeReport:
    sent = row.report
    nested: dict[str, object] = {
        "time": row.time,
        "profile": from_wire(Profile, sent.profile),
        "cap": from_wire(Cap, sent.cap) if sent.cap.method else None,
        "cpu_s": from_wire(CpuSeconds, sent.cpu_s) if sent.HasField("cpu_s") else None,
        "robust": tuple(from_wire(Evaluation, each) for each in sent.robust),
        "release_robust": tuple(
            from_wire(Evaluation, each) for each in sent.release_robust
        ),
    }
    message: Message = sent
    scalars = {
        field.name: getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if field.name not in nested
        and (not field.has_presence or message.HasField(field.name))
    }
    return NodeReport.model_validate({**scalars, **nested})


def _row(node: FleetNode, now: datetime) -> tuple[str, ...]:
    state = node.state or MISSING
    if 0 < node.progress < 1:
        state += f" {100 * node.progress:.0f} %"
    seen = MISSING if node.last_seen is None else f"{_age(now - node.last_seen)} ago"
    report = node.report
    if report is None:
        return (node.node, state, seen, *[MISSING] * (len(HEAD) - 3))
    return (
        *(node.node, state, seen, f"v{report.version}", report.student),
        *(report.outcome, *_figures(report), _describe_own(report)),
    )


def _figures(report: NodeReport) -> tuple[str, str, str]:
    """Write clean, robust and shipped; after a stroke on the release's images.

    Where a node has none of its own to measure with, all are on the release's alone.
    """
    clean, robust = report.clean_accuracy, _least(report.robust)
    if not report.release_robust or report.release_robust == report.robust:
        shipped = report.shipped_own_robust
        if shipped is None:
            shipped = report.shipped_release_robust
        return percent(clean), percent(robust), percent(shipped)
    pairs = (
        (clean, report.release_clean_accuracy),
        (robust, _least(report.release_robust)),
        (report.shipped_own_robust, report.shipped_release_robust),
    )
    clean_cell, robust_cell, shipped_cell = (
        MISSING if own is None and release is None else _joined(own, release)
        for own, release in pairs
    )
    return clean_cell, robust_cell, shipped_cell


def _joined(own: float | None, release: float | None) -> str:
    return f"{percent(own)} / {percent(release)}"


def _least(robust: Sequence[Evaluation]) -> float | None:
    return min((each.accuracy for each in robust), default=None)


def _describe_own(report: NodeReport) -> str:
    """Say how many images of its own a node trained on."""
    if not report.robust:  # it failed before it had a student
        return MISSING
    if not report.own_images:
        return "none"
    return f"{report.own_images:,}, {report.own_labelled:,} labelled"


def _age(time: timedelta) -> str:
    seconds = max(0, round(time.total_seconds()))
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def _caption(nodes: Sequence[FleetNode]) -> str:
    """Say what the figures mean."""
    reports = [each.report for each in nodes if each.report is not None]
    attacks = sorted({describe_attack(e) for each in reports for e in each.robust})
    if not attacks:
        return "release, outcome and figures: of the last report; none measured"
    return (
        "release, outcome and figures: of the last report; robust: "
        f"{', '.join(attacks)}, on the node's own validation images, after a stroke on "
        "the release's (on these alone where it has none of its own); as shipped: "
        "robust, of the release's starting weights before training"
    )
