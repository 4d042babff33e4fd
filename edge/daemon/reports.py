"""Reports that survive a kill: written before a release is handled, sent until taken.

A report is first written into the work folder of its release. Only when current.json
says that the release was handled is it moved to the outbox, in one rename. What is in
the outbox is sent, and removed once the gateway has accepted it. So a kill loses no
report and sends none twice (except between the gateway's answer and the removal, where
a second copy is better than none). Not here: the live status
(edge/daemon/heartbeat.py).
"""

import contextlib
import hashlib
import logging
from pathlib import Path

from google.protobuf import json_format

from common import faults
from common.config import ProfileConfig
from common.durable import fsync_folder, storing, write_atomic
from common.errors import one_line
from common.pb import takt_pb2
from common.records import to_wire
from common.report_bounds import MAX_NOTES
from edge.jobs.job import DistilResult
from edge.jobs.runner import ChildUsage
from edge.link.client import Link
from edge.link.failures import RefusedError
from edge.state import Current, StateDir

logger = logging.getLogger(__name__)


def make_report(
    current: Current,
    *,
    profile: ProfileConfig,
    result: DistilResult | None,
    usage: ChildUsage | None,
    seed: int,
    pulled_bytes: int,
) -> takt_pb2.ReportRequest:
    """Make the report of a handled release.

    Args:
        current: what current.json is going to hold.
        profile: the node's caps.
        result: of the distillation; None when it failed.
        usage: what it used; None when it never started.
        seed: of the distillation.
        pulled_bytes: payload, since the daemon started.
    """
    report = takt_pb2.ReportRequest(
        channel=current.channel,
        version=current.version,
        student=current.student,
        seed=seed,
        pulled_bytes=pulled_bytes,
        outcome=current.outcome,
        message=current.message,
    )
    to_wire(profile, report.profile)
    if usage is not None:
        to_wire(usage.cap, report.cap)
        report.peak_memory_mib = usage.peak_memory_mib
    if result is not None:
        _add_result(report, result)
    return report


def _add_result(report: takt_pb2.ReportRequest, result: DistilResult) -> None:
    report.architecture = result.architecture
    report.num_parameters = result.num_parameters
    report.method = result.method
    report.seed = result.seed
    to_wire(result.cpu_s, report.cpu_s)
    report.clean_accuracy = result.clean_accuracy
    report.weights_sha256 = result.weights_sha256
    report.live_bytes = result.live_bytes
    for each in result.robust:
        to_wire(each, report.robust.add())
    report.own_images = result.own_images
    report.own_labelled = result.own_labelled
    report.notes.extend(result.notes[:MAX_NOTES])
    report.as_shipped = "as_shipped" in result.flags
    if result.release_clean_accuracy is not None:
        report.release_clean_accuracy = result.release_clean_accuracy
    for each in result.release_robust:
        to_wire(each, report.release_robust.add())
    if result.shipped is not None:
        for kind in ("own_robust", "release_robust"):
            value = getattr(result.shipped, kind)
            if value is not None:
                setattr(report, f"shipped_{kind}", value)
    for point in result.curve:
        to_wire(point, report.curve.add())


class Outbox:
    """The reports of one state folder that wait to be sent."""

    def __init__(self, state: StateDir) -> None:
        """Use an existing folder."""
        self._state = state

    def draft(self, report: takt_pb2.ReportRequest, current: Current) -> None:
        """Write a report into its release's work folder, until `current` is kept.

        Args:
            report: of the handling that ends.
            current: what current.json is to say of that handling.

        Raises:
            StorageError: the disk is full or not writable.
        """
        data = json_format.MessageToJson(report, preserving_proto_field_name=True)
        write_atomic(self._drafted(current), data.encode(), point="edge.report")

    def enqueue(self, current: Current) -> None:
        """Move the draft of the handling that current.json tells of to the outbox.

        That of another one, of the same release, was cut short before it took effect,
        and is left. A digest is part of its name there: a release that is handled
        again, with other images, has a second report, while the first may still wait.

        Raises:
            StorageError: the disk is broken.
        """
        draft = self._drafted(current)
        name = f"{current.channel}-{current.version}-{current.student}"
        with storing(self._state.outbox):
            if not draft.exists():
                return
            name += f"-{hashlib.sha256(draft.read_bytes()).hexdigest()[:16]}.json"
            faults.point("edge.outbox.before_rename")
            draft.replace(self._state.outbox / name)
            fsync_folder(self._state.outbox)
            faults.point("edge.outbox.after_rename")

    def _drafted(self, current: Current) -> Path:
        handling = hashlib.sha256(current.model_dump_json().encode()).hexdigest()[:16]
        return self._state.work / str(current.version) / f"report-{handling}.json"

    def flush(self, link: Link) -> int:
        """Send the outbox's reports, oldest first; return how many were accepted.

        A report that is damaged, or that the gateway refuses for good, is renamed to
        ``*.refused``, and the log says so. One that cannot be read stays for the next
        time: that may pass, and holds neither other reports nor releases back.

        Raises:
            StorageError: the disk is broken.
            LinkError: the gateway could not be reached; the reports stay.
            IdentityError: the gateway refuses this node; they stay.
            Interrupted: the daemon is to stop; they stay.
        """
        sent = 0
        for path in sorted(self._state.outbox.glob("*.json"), key=_written):
            report = takt_pb2.ReportRequest()
            try:
                json_format.Parse(path.read_bytes(), report, ignore_unknown_fields=True)
            except OSError as e:
                logger.warning("cannot read %s: %s; tried again", path, e.strerror or e)
                continue
            except (json_format.ParseError, ValueError) as e:
                with contextlib.suppress(OSError):
                    _set_aside(path, one_line(e))
                continue
            try:
                link.report(report)
            except RefusedError as e:
                with storing(path):
                    _set_aside(path, str(e))
                continue
            faults.point("edge.sent.before_unlink")
            with storing(path):
                path.unlink()
                fsync_folder(self._state.outbox)
            sent += 1
        return sent


def _written(path: Path) -> tuple[int, str]:
    """Order reports by the time at which they were written."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns, path.name
    return 0, path.name


def _set_aside(path: Path, reason: str) -> None:
    """Keep a report that is never going to be accepted out of the way."""
    aside = path.with_suffix(".refused")
    path.replace(aside)
    logger.warning("a report cannot be delivered and is kept as %s: %s", aside, reason)
