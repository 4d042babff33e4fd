"""report.html: one self-contained page about a run, from what lies in its folder.

No script, no font, no picture from elsewhere: it opens anywhere and offline, in
the reader's light or dark scheme, on a phone or a desk. It shows nothing that is
not in result.json or in the files of details that this names, and what was not
measured is left out. The page itself is in `deploy/report/templates/`; here is what
the templates are given.

Not here: bars (`deploy/report/bars.py`), curves (`deploy/report/charts.py`), images and
classes of students (`deploy/report/pictured.py`). Importing this loads jinja2 and
matplotlib; import it where a page is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common.durable import write_atomic
from common.records import Evaluation
from common.regular_file import is_folder
from common.text import counted
from deploy.report import bars, pictured
from deploy.report.arms import run_arms
from deploy.report.charts import Series, curves, swatch
from deploy.report.details import Details, read_details
from deploy.report.pictured import curves_of, describe_curves
from deploy.report.result import (
    VALIDATION,
    NodeResult,
    RunResult,
    read_result,
)
from deploy.report.table import arms_caption
from deploy.report.wording import (
    TRIAL,
    baseline_name,
    describe,
    human_bytes,
    percent,
)

REPORT_NAME = "report.html"


def write_report(run_dir: Path) -> RunResult:
    """Render `run_dir`/report.html from what lies there; return the result.

    Raises:
        StorageError: there is no result, it or a file that it names is damaged, or
            the page cannot be written.
    """
    result = read_result(run_dir)
    write_page(result, run_dir if is_folder(run_dir) else run_dir.parent)
    return result


def write_page(result: RunResult, folder: Path) -> None:
    """Render `folder`/report.html from a result and the details in that folder.

    Raises:
        StorageError: details are damaged, or the page cannot be written.
    """
    found = {
        name: read_details(folder, name) for name in pictured.named_details(result)
    }
    details = {name: each for name, each in found.items() if each is not None}
    write_atomic(folder / REPORT_NAME, render(result, details).encode())


def render(result: RunResult, details: Mapping[str, Details] | None = None) -> str:
    """Render the whole page as HTML.

    Args:
        result: of a run.
        details: that it names and that are there, by the names of their files.
    """
    environment = Environment(
        loader=PackageLoader("deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "describe": describe,
        "human_bytes": human_bytes,
    }
    choice = pictured.choose(result, details or {})
    return environment.get_template("report.html").render(
        result=result,
        accuracy_rows=bars.accuracy_rows(result),
        robust_note=_robust_note(result),
        baseline_name=baseline_name(result.baselines),
        arm_rows=bars.arm_rows(result),
        arm_note=arms_caption(run_arms(result), in_one_cell=False),
        learning=_learning(result),
        withstanding=_withstanding(choice),
        pictured=pictured.cards_of(choice),
        pictured_notes=choice.notes,
        labelled_nodes=list(_labelled_nodes(result)),
        release_rows=bars.release_rows(result),
        memory_rows=bars.memory_rows(result),
        phase_rows=bars.phase_rows(result),
        evaluations=list(_evaluations(result)),
    )


def _labelled_nodes(result: RunResult) -> Iterator[tuple[str, NodeResult]]:
    """Give every trained student with a label: nodes first, then baselines."""
    for node in result.nodes:
        yield node.name, node
    for baseline in result.baselines or ():
        yield f"{baseline.name} {baseline.method}", baseline


def _evaluations(result: RunResult) -> Iterator[tuple[str, Evaluation]]:
    """Give every robust accuracy with the label of its model."""
    if result.teacher is not None:
        for evaluation in result.teacher.robust:
            yield "teacher", evaluation
    for label, node in _labelled_nodes(result):
        for evaluation in node.robust:
            # A baseline was trained here, and its figures are not a node's.
            claimed = VALIDATION in evaluation.flags and label == node.name
            yield f"{label} (the node's claim)" if claimed else label, evaluation
        for evaluation in node.release_robust or ():
            yield f"{label} (its claim, on the release's images)", evaluation


def _robust_note(result: RunResult) -> str:
    """Say of which attack and how many images the robust accuracies are."""
    teacher = result.teacher_autoattack
    first = next((n.autoattack for n in result.nodes if n.autoattack), teacher)
    note = f"{describe(first)} a student." if first else ""
    if teacher is not None:
        note += f" Teacher: {counted(teacher.num_images, 'image')}."
    if result.teacher and result.teacher.trial:
        note += f" This is {TRIAL}."
    return f"{note} Bars run from 0 to 100 %."


@dataclass(frozen=True)
class _Curves:
    """A section of curves."""

    note: str
    pictures: list[Markup]
    legend: list[tuple[Markup, str]]  # a swatch and the name of a curve


def _withstanding(choice: pictured.Choice) -> _Curves | None:
    """Draw accuracy against eps, of the students that are pictured."""
    series = [each for student in choice.students for each in curves_of(student)]
    if not series:
        return None
    first = choice.students[0].details
    pictures = curves(
        series,
        x_label="eps of the attack, pixel scale",
        y_label="accuracy under PGD, %",
        summary="Accuracy against eps: " + ", ".join(each.note for each in series),
        rule=first.eps,
    )
    return _Curves(
        note=describe_curves(choice),
        pictures=[Markup(picture) for picture in pictures],  # safe, as below
        legend=[(Markup(swatch(each)), each.name) for each in series],
    )


def _learning(result: RunResult) -> _Curves | None:
    """Draw robust accuracy against the node's CPU-seconds."""
    series = list(_series(result))
    if not series:
        return None
    pictures = curves(
        series,
        x_label="CPU-seconds of training at the node",
        y_label="robust accuracy, %",
        summary="Robust accuracy on the validation split: "
        + ", ".join(each.note for each in series),
    )
    own = [e for node in result.nodes for e in node.robust if VALIDATION in e.flags]
    counts = sorted({each.num_images for each in own})
    measured = f" ({describe(own[0])})" if own else ""
    if len(counts) > 1:
        measured = f" ({describe(min(own, key=lambda each: each.num_images))}"
        measured += f", up to {counts[-1]} at others)"
    note = (
        "Each node's own measurements while it learns, on its validation images"
        f"{measured}. AutoAttack, above, is the stronger attack."
    )
    if any(each.dashed for each in series):
        note += f" Dashed: {baseline_name(result.baselines)}, as many CPU-seconds."
    return _Curves(
        note=note,
        # Safe: SVG of deploy.report.svg, which escapes the texts in it.
        pictures=[Markup(picture) for picture in pictures],
        legend=[(Markup(swatch(each)), each.name) for each in series],
    )


def _series(result: RunResult) -> Iterator[Series]:
    order = [node.name for node in result.nodes]
    for label, node in _labelled_nodes(result):
        points = [
            (point.cpu_s, point.robust_accuracy)
            for point in node.curve
            if point.robust_accuracy is not None
        ]
        if node.name not in order or not points:
            continue
        index = order.index(node.name)
        last_s, last_accuracy = points[-1]
        yield Series(
            name=label,
            index=index,
            points=points,
            dashed=label != node.name,
            note=f"{label} ends at {percent(last_accuracy)} % after {last_s:.1f} "
            "CPU-seconds",
        )
