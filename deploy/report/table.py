"""The terminal tables of a run: teacher, students, references, verdict, paths.

Shows result.json and nothing else. A narrower terminal gets fewer columns, a very
narrow one a short block for each row. Not here: the live view, the HTML page.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.records import Evaluation
from common.regular_file import is_there
from deploy.report.arms import (
    ALONE,
    NO_TEACHER,
    SHIPPED,
    TRAINED,
    Arm,
    NodeArms,
    describe_own,
    run_arms,
)
from deploy.report.columns import MISSING, fits, make_table, print_columns
from deploy.report.result import Failure, NodeResult, RunResult
from deploy.report.wording import TRIAL, describe, human_bytes, percent
from deploy.runtime.terminal import plain

COLUMNS = (
    "node",
    "student",
    "clean %",
    "robust %",
    "pulled",
    "CPU-s",
    "peak/cap MiB",
    "caps held by",
    "state",
)
NUMERIC = {"clean %", "robust %", "pulled", "CPU-s", "peak/cap MiB"}
ARMS = (ALONE, SHIPPED, NO_TEACHER, TRAINED)
SPARED_FIRST = {"pulled", "caps held by"}


def print_result(
    result: RunResult, console: Console, run_dir: Path, *, error_follows: bool = False
) -> None:
    """Print table, verdict and paths of a run; of one without nodes no table.

    Args:
        result: of the run.
        console: takes it.
        run_dir: the run's folder.
        error_follows: the error that ended the run will have a line of its own.
    """
    rows = _rows(result) if result.release is not None else []
    console.print()
    if rows:
        tables = (_table(rows, set(COLUMNS)), _table(rows, set(COLUMNS) - SPARED_FIRST))
        fitting = [table for table in tables if fits(table, console)]
        if fitting:
            console.print(fitting[0])
        else:
            _print_blocks(rows, console)
        console.print(f"[dim]{plain(caption(result))}[/dim]", highlight=False)
        _print_arms(result, console)
        for note in _notes(result):
            console.print(
                f"[yellow]note[/yellow]: {plain(note)}",
                highlight=False,
                soft_wrap=True,
            )
        console.print()
    if rows or not error_follows:
        style = "bold" if result.status == "ok" else "bold red"
        console.print(plain(result.verdict), style=style, highlight=False)
    if result.error is not None and not error_follows:
        _print_error(result.error, result.verdict, console)
    for label, name in (
        ("report", "report.html"),
        ("result", "result.json"),
        ("students", "students"),
        ("logs", "logs"),
    ):
        if is_there(run_dir / name):
            line = f"{label:9} {plain(str(run_dir / name))}"
            console.print(line, highlight=False, soft_wrap=True)


def _notes(result: RunResult) -> list[str]:
    """List what a user should know of the data set and of the nodes' images."""
    notes = [*((result.dataset and result.dataset.notes) or ())]
    for node in result.nodes:
        notes += [f"{node.name}: {note}" for note in node.notes or ()]
    return notes


def _print_error(error: Failure, verdict: str, console: Console) -> None:
    """Print what ended a run: its exit code, and the line unless the verdict has it."""
    line = f"exit code {error.code}"
    if error.message not in verdict:
        line += f": {plain(error.message)}"
    console.print(line, highlight=False, soft_wrap=True)


def caption(result: RunResult) -> str:
    """Say what the figures of the table mean."""
    found = [node.autoattack for node in result.nodes if node.autoattack is not None]
    teacher = result.teacher_autoattack
    notes = []
    if found:
        notes.append(f"robust: {describe(found[0])} a student")
        if any(e.num_images != found[0].num_images for e in found):
            images = ", ".join(str(e.num_images) for e in found)
            notes[-1] = f"robust: {describe(found[0])} (by node: {images})"
    if teacher is not None:
        notes.append(f"teacher: {describe(teacher)}")
    notes.append("clean: the whole test split")
    if result.teacher and result.teacher.trial:
        notes.append(TRIAL)
    soft = [node for node in result.nodes if node.cap is not None and not node.cap.hard]
    if soft:
        notes.append("caps held softly: " + ", ".join(node.name for node in soft))
    return "; ".join(notes)


def _print_arms(result: RunResult, console: Console) -> None:
    """Print each node's student beside those that went without something."""
    nodes = run_arms(result)
    names = [name for name in ARMS if any(name in each.arms for each in nodes)]
    if len(names) < 2:
        return
    head = ("node", "images of its own", *names)
    rows = [
        (
            each.node.name,
            describe_own(each.node.data),
            *[_arm(each.arms.get(name)) for name in names],
        )
        for each in nodes
    ]
    console.print()
    print_columns(console, head, rows, left=head[:2])
    console.print(f"[dim]{plain(arms_caption(nodes))}[/dim]", highlight=False)


def _arm(arm: Arm | None) -> str:
    if arm is None:
        return MISSING
    own = arm.own_classes
    return percent(arm.all_classes.accuracy) + (
        f" / {percent(own.accuracy)}" if own is not None else ""
    )


def arms_caption(nodes: list[NodeArms], *, in_one_cell: bool = True) -> str:
    """Say what the figures of the second table mean.

    Args:
        nodes: what it shows.
        in_one_cell: whether own classes stand after a stroke.
    """
    notes = ["robust %, as above"]
    own = [arm.own_classes for each in nodes for arm in each.arms.values()]
    counts = sorted({each.num_images for each in own if each is not None})
    if counts:
        images = " or ".join(str(count) for count in counts)
        where = "after the stroke " if in_one_cell else ""
        notes.append(f"{where}on the node's own classes: {images} images")
    names = {name for each in nodes for name in each.arms}
    if ALONE in names:
        notes.append(f"{ALONE}: from scratch, for the student's CPU-seconds")
    if SHIPPED in names:
        notes.append(f"{SHIPPED}: the release's starting weights, no training")
    same = [each.node.name for each in nodes if each.node.as_shipped]
    if same:
        notes.append(
            f"as shipped, since training did not improve it: {', '.join(same)}"
        )
    shifted = [
        f"{each.node.name} ({each.node.data.shift})"
        for each in nodes
        if each.node.data is not None and each.node.data.shift is not None
    ]
    if shifted:
        notes.append(f"on test images shifted as its own are: {', '.join(shifted)}")
    return "; ".join(notes)


def _rows(result: RunResult) -> list[tuple[str, ...]]:
    rows = []
    if result.teacher is not None:
        teacher = result.teacher
        rows.append(
            (
                "teacher",
                f"{teacher.architecture} ({teacher.num_parameters:,})",
                percent(teacher.clean_accuracy),
                _robust(teacher.autoattack),
                *[MISSING] * 4,
                "trial" if teacher.trial else "published",
            )
        )
    rows += [_node_row(node, node.name) for node in result.nodes]
    for baseline in result.baselines or ():
        rows.append(_node_row(baseline, f"{baseline.name} {baseline.method}"))
    return rows


def _node_row(node: NodeResult, label: str) -> tuple[str, ...]:
    student = node.student
    peak = MISSING if node.peak_memory_mib is None else f"{node.peak_memory_mib:.0f}"
    cap = MISSING
    if node.cap is not None:
        cap = node.cap.method + ("" if node.cap.hard else " (soft)")
    return (
        label,
        MISSING
        if student is None
        else f"{student.architecture} ({student.num_parameters:,})",
        percent(node.clean_accuracy),
        _robust(node.autoattack),
        human_bytes(node.pulled_bytes),
        MISSING if node.measured_cpu_s is None else f"{node.measured_cpu_s.distil:.1f}",
        f"{peak}/{node.profile.memory_mib}",
        cap,
        node.state,
    )


def _robust(evaluation: Evaluation | None) -> str:
    return MISSING if evaluation is None else percent(evaluation.accuracy)


def _table(rows: list[tuple[str, ...]], columns: set[str]) -> Table:
    kept = [index for index, name in enumerate(COLUMNS) if name in columns]
    head = [COLUMNS[index] for index in kept]
    chosen = [[row[index] for index in kept] for row in rows]
    return make_table(head, chosen, left=[name for name in head if name not in NUMERIC])


def _print_blocks(rows: list[tuple[str, ...]], console: Console) -> None:
    for row in rows:
        console.print(plain(f"{row[0]}: {row[-1]}"), style="bold", highlight=False)
        for column, cell in zip(COLUMNS[1:-1], row[1:-1], strict=True):
            if cell != MISSING:
                console.print(plain(f"  {column:15} {cell}"), highlight=False)
