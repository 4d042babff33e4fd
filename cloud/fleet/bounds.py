"""Bounds on every field of a heartbeat and a report: values from nodes are validated.

Strings are cut and cleaned, impossible numbers are refused. Not here: where reports are
kept (`cloud.fleet.database`), and escaping for HTML, which is the page's part.
"""

import math
from collections.abc import Sequence, Sized

from cloud.errors import BadRequestError
from common.pb.takt_pb2 import Evaluation, HeartbeatRequest, ReportRequest
from common.report_bounds import MAX_CURVE, MAX_NOTES
from common.text import shortened

MAX_BIGINT = 2**63 - 1  # what the database can hold
MAX_EVALUATIONS = 32
MAX_FLAGS = 16
MAX_CPU_S = 1e9  # some thirty years
MAX_MEMORY_MIB = 1e8
MAX_ROUNDING = 1e-3  # of a count of images: a node may measure in single precision


def checked_heartbeat(beat: HeartbeatRequest) -> HeartbeatRequest:
    """Return a copy of bounded size.

    Raises:
        BadRequestError: a number in it is impossible.
    """
    _within("version", beat.version, MAX_BIGINT)
    _finite("progress", beat.progress)
    return HeartbeatRequest(
        state=clean(beat.state, 32),
        version=beat.version,
        progress=min(max(beat.progress, 0.0), 1.0),
        message=clean(beat.message, 500),
    )


def checked_report(report: ReportRequest) -> ReportRequest:
    """Return a copy of bounded size.

    Raises:
        BadRequestError: a number in it is impossible, or a list is too long.
    """
    _bound_lists(report)
    checked = ReportRequest()
    checked.CopyFrom(report)
    checked.DiscardUnknownFields()
    for field, length in (
        ("channel", 63),
        ("student", 63),
        ("architecture", 64),
        ("method", 32),
        ("outcome", 32),
        ("message", 500),
        ("weights_sha256", 64),
    ):
        setattr(checked, field, clean(getattr(report, field), length))
    for field in (
        *("version", "num_parameters", "pulled_bytes"),
        *("live_bytes", "own_images", "own_labelled"),
    ):
        _within(field, getattr(report, field), MAX_BIGINT)
    _within("own_labelled", report.own_labelled, report.own_images)
    _within("peak_memory_mib", report.peak_memory_mib, MAX_MEMORY_MIB)
    _within("profile.cpus", report.profile.cpus, 1e5)
    if report.HasField("cap"):
        checked.cap.method = clean(report.cap.method, 64)
    for field in ("distil", "attack", "evaluate"):
        _within(f"cpu_s.{field}", getattr(report.cpu_s, field), MAX_CPU_S)
    for field in (
        *("clean_accuracy", "release_clean_accuracy"),
        *("shipped_own_robust", "shipped_release_robust"),
    ):
        _within(field, getattr(report, field), 1)  # absent reads as 0
    checked.ClearField("notes")
    checked.notes.extend(clean(note, 500) for note in report.notes)
    for field in ("robust", "release_robust"):
        _check_evaluations(field, getattr(checked, field))
    for point in report.curve:
        _within("curve.cpu_s", point.cpu_s, MAX_CPU_S)
        # Absent reads as 0, which is within.
        _within("curve.clean_accuracy", point.clean_accuracy, 1)
        _within("curve.robust_accuracy", point.robust_accuracy, 1)
    return checked


def _bound_lists(report: ReportRequest) -> None:
    """Refuse long lists, before anything looks at what is in them."""
    _at_most("curve", report.curve, MAX_CURVE)
    _at_most("notes", report.notes, MAX_NOTES)
    _at_most("robust", report.robust, MAX_EVALUATIONS)
    _at_most("release_robust", report.release_robust, MAX_EVALUATIONS)


def _check_evaluations(field: str, evaluations: Sequence[Evaluation]) -> None:
    """Bound the robust accuracies of a report, in place."""
    for evaluation in evaluations:
        _some(f"{field}.num_images", evaluation.num_images)
        _within(f"{field}.accuracy", evaluation.accuracy, 1)
        _share(f"{field}.accuracy", evaluation.accuracy, evaluation.num_images)
        _within(f"{field}.eps", evaluation.eps, 1)
        _at_most(f"{field}.flags", evaluation.flags, MAX_FLAGS)
        for name in ("attack", "version", "norm"):
            _some(f"{field}.{name}", len(getattr(evaluation, name)))
            setattr(evaluation, name, clean(getattr(evaluation, name), 64))
        flags = [clean(flag, 64) for flag in evaluation.flags]
        evaluation.ClearField("flags")
        evaluation.flags.extend(flags)


def clean(text: str, length: int) -> str:
    """Cut a string and replace what is not printable (no terminal escapes)."""
    cut = shortened(text, length)
    return "".join(c if c.isprintable() else " " for c in cut)


def _finite(field: str, value: float) -> None:
    if not math.isfinite(value):
        raise BadRequestError(f"{field} is {value}, expected a finite number")


def _within(field: str, value: float, most: float) -> None:
    """Refuse what is not in [0, most]; NaN is in no range."""
    if not 0 <= value <= most:
        raise BadRequestError(f"{field} is {value}, expected 0 to {most:g}")


def _some(field: str, count: int) -> None:
    """Refuse an evaluation that leaves out what gives its number a meaning."""
    if not count:
        raise BadRequestError(f"{field} is 0 or missing, expected something")


def _share(field: str, accuracy: float, num_images: int) -> None:
    """Refuse what no number of that many images is, but for rounding."""
    right = accuracy * num_images
    if abs(right - round(right)) > MAX_ROUNDING:
        raise BadRequestError(
            f"{field} is {accuracy}, expected a whole number of the {num_images} images"
        )


def _at_most(field: str, values: Sized, most: int) -> None:
    num = len(values)
    if num > most:
        raise BadRequestError(f"{field} has {num} entries, expected at most {most}")
