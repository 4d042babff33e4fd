"""The rows of bars of the report: what each shows, from a run's result.

A bar is a share of a track. Templates draw them (`deploy/report/templates/`), in
HTML: a row rearranges itself on a narrow page, and its figures stay text. What was
not measured has no row.

Not here: curves (`deploy/report/charts.py`).
"""

import math
from dataclasses import dataclass

from common.records import Evaluation
from deploy.report.arms import (
    ALONE,
    NO_TEACHER,
    SHIPPED,
    TRAINED,
    describe_own,
    run_arms,
)
from deploy.report.result import NodeResult, RunResult
from deploy.report.svg import hue
from deploy.report.wording import human_bytes, percent

CONTENT_NAMES = {
    "soft_labels": "soft labels",
    "deltas": "adversarial deltas",
    "boundary_points": "boundary points",
    "images": "images",
    "val_images": "validation images",
    "weights": "starting weights",
}
ARM_WORDS = {ALONE: "alone", SHIPPED: SHIPPED, NO_TEACHER: "no teacher"}


@dataclass(frozen=True)
class Bar:
    """One bar of a row, as fractions of the track."""

    width: float
    style: str  # CSS class of the colour
    hatched: bool = False
    tick: float | None = None
    span: tuple[float, float] | None = None  # a whisker from, to


@dataclass(frozen=True)
class BarRow:
    """A labelled row: name and detail left, bars, value and details right."""

    name: str
    detail: str
    bars: tuple[Bar, ...]
    value: str
    value_details: tuple[str, ...] = ()


def accuracy_rows(result: RunResult) -> list[BarRow]:
    """Show robust and clean accuracy of the teacher and of each student."""
    rows = []
    teacher = result.teacher
    found = result.teacher_autoattack
    if teacher is not None and found is not None:
        bar = Bar(
            found.accuracy,
            "teacher",
            tick=teacher.clean_accuracy,
            span=wilson(found.accuracy, found.num_images),
        )
        rows.append(
            BarRow(
                "teacher",
                _size(teacher.architecture, teacher.num_parameters),
                (bar,),
                f"{percent(found.accuracy)} % robust",
                (
                    f"{percent(teacher.clean_accuracy)} % clean",
                    f"n = {found.num_images}",
                ),
            )
        )
    baselines = {baseline.name: baseline for baseline in result.baselines or ()}
    for index, node in enumerate(result.nodes):
        row = _student_row(node, baselines.get(node.name), hue(index))
        if row is not None:
            rows.append(row)
    return rows


def _student_row(
    node: NodeResult, baseline: NodeResult | None, style: str
) -> BarRow | None:
    found = node.autoattack
    if found is None or node.student is None:
        return None
    bars = [_accuracy_bar(node, style)]
    details = [f"{percent(node.clean_accuracy)} % clean", f"n = {found.num_images}"]
    if baseline is not None and baseline.autoattack is not None:
        bars.append(_accuracy_bar(baseline, style, hatched=True))
        name = "PGD-AT" if baseline.method == "pgd_at" else "no teacher"
        details.append(f"{name} {percent(baseline.autoattack.accuracy)} % robust")
    return BarRow(
        node.name,
        _size(node.student.architecture, node.student.num_parameters),
        tuple(bars),
        f"{percent(found.accuracy)} % robust",
        tuple(details),
    )


def arm_rows(result: RunResult) -> list[BarRow]:
    """Show each node's student beside its references: all classes, then its own."""
    rows = []
    places = {node.name: index for index, node in enumerate(result.nodes)}
    for each in run_arms(result):
        if TRAINED not in each.arms or len(each.arms) < 2:
            continue
        style, data = hue(places[each.node.name]), describe_own(each.node.data)
        name = each.node.name
        found = {name: arm.all_classes for name, arm in each.arms.items()}
        rows.append(_arm_row(name, f"own images: {data}", style, found))
        own = {name: arm.own_classes for name, arm in each.arms.items()}
        measured = {name: e for name, e in own.items() if e is not None}
        if TRAINED in measured:
            rows.append(_arm_row(name, "on its own classes", style, measured))
    return rows


def _arm_row(
    name: str, detail: str, style: str, found: dict[str, Evaluation]
) -> BarRow:
    trained = found[TRAINED]
    others = {arm: e for arm, e in found.items() if arm != TRAINED}
    bars = [
        Bar(
            e.accuracy,
            "teacher" if arm == SHIPPED else style,
            hatched=arm in (ALONE, NO_TEACHER),
        )
        for arm, e in others.items()
    ]
    span = wilson(trained.accuracy, trained.num_images)
    bars.append(Bar(trained.accuracy, style, span=span))
    return BarRow(
        name,
        detail,
        tuple(bars),
        f"{percent(trained.accuracy)} % {TRAINED}",
        (
            *(f"{percent(e.accuracy)} % {ARM_WORDS[arm]}" for arm, e in others.items()),
            f"n = {trained.num_images}",
        ),
    )


def _size(architecture: str, num_parameters: int) -> str:
    return f"{architecture}, {num_parameters:,} parameters"


def _accuracy_bar(node: NodeResult, style: str, *, hatched: bool = False) -> Bar:
    found = node.autoattack
    if found is None:
        raise AssertionError("only called where AutoAttack was measured")
    return Bar(
        found.accuracy,
        style,
        hatched=hatched,
        tick=node.clean_accuracy,
        span=wilson(found.accuracy, found.num_images),
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson 1927).

    Args:
        share: as measured, in [0, 1].
        count: of how many; of none nothing is known.
    """
    if count < 1:
        return 0.0, 1.0
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = share * (1 - share) / count + z * z / (4 * count * count)
    half = z * math.sqrt(spread) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def release_rows(result: RunResult) -> list[BarRow]:
    """Show the bytes per sample of each content of the release."""
    release = result.release
    if release is None:
        return []
    most = max([*release.bytes_per_sample.values(), 1e-9])
    return [
        BarRow(
            CONTENT_NAMES.get(content, content),
            "",
            (Bar(each / most, "s0"),),
            f"{each:.1f} B",
            (human_bytes(each * release.num_samples),),
        )
        for content, each in sorted(
            release.bytes_per_sample.items(), key=lambda item: _order(item[0])
        )
    ]


def _order(content: str) -> tuple[int, str]:
    names = list(CONTENT_NAMES)
    return names.index(content) if content in names else len(names), content


def memory_rows(result: RunResult) -> list[BarRow]:
    """Show each node's peak of memory; the full track is its cap."""
    return [
        BarRow(
            node.name,
            f"cap {node.profile.memory_mib} MiB",
            (Bar(node.peak_memory_mib / node.profile.memory_mib, hue(index)),),
            f"{node.peak_memory_mib:.0f} MiB",
            (f"{100 * node.peak_memory_mib / node.profile.memory_mib:.0f} % of it",),
        )
        for index, node in enumerate(result.nodes)
        if node.peak_memory_mib is not None
    ]


def phase_rows(result: RunResult) -> list[BarRow]:
    """Show the seconds of each phase of the run."""
    phases = {k: v for k, v in result.timings_s.items() if k != "total"}
    most = max([*phases.values(), 1e-9])
    return [
        BarRow(name, "", (Bar(seconds / most, "teacher"),), f"{seconds:.1f} s")
        for name, seconds in phases.items()
    ]
