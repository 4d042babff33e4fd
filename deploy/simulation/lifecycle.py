"""How a run begins and ends: its folder before, its result.json and table after.

Whatever happens in between, everything that was found is written down, and the error
that ends the run is the one that the record names. Not here: what is done in between
(deploy/simulation/simulate.py, deploy/simulation/collect.py).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from common.config import NodeConfig, OwnImagesConfig, RunConfig
from common.config.node_images import NUM_CLASSES
from common.errors import StudentError, TaktError
from common.text import counted, printable
from deploy.cloud_progress import read_lines
from deploy.evaluation.measurement import Measurement
from deploy.report.builder import (
    baseline_result,
    build_result,
    node_result,
    reference_result,
    teacher_result,
)
from deploy.report.events import writing_events
from deploy.report.result import (
    Accuracies,
    Failure,
    NodeResult,
    Reference,
    RunResult,
    Student,
    write_result,
)
from deploy.report.table import print_result
from deploy.report.wording import DELIVERED, describe_failure, make_verdict
from deploy.runtime.exits import interrupt_code, record_bug
from deploy.runtime.progress import Display
from deploy.runtime.terminal import quiet_output
from deploy.simulation.details import write_all_details
from deploy.simulation.node_images import (
    describe_images,
    images_of_nodes,
    own_classes,
)
from deploy.simulation.run_folder import RunFolder, create_run
from deploy.simulation.run_state import FinishedNode, FinishedReference, RunState

Body = Callable[[RunState, Display], None]


def run_in_folder(
    config: RunConfig,
    config_text: str,
    body: Body,
    *,
    runs_dir: Path,
    storage: Path | None = None,
    quiet: bool = False,
) -> int:
    """Do a run in a folder of its own; print the table; leave the folder.

    Args:
        config: of the run.
        config_text: the same as TOML, for the run's folder.
        body: does the run, and puts each result into the state at once.
        runs_dir: where the run's folder is made.
        storage: of a cloud side that runs elsewhere; None: in the run's folder.
        quiet: show the result alone.

    Raises:
        TaktError: a part failed; result.json says the same.
        KeyboardInterrupt: the run was stopped; result.json says so.
    """
    run = create_run(runs_dir, config.channel, config_text, storage=storage)
    state = RunState(config, run)
    error: BaseException | None = None
    with quiet_output(run.log("simulation")) as console:
        try:
            with Display(console, quiet=quiet) as display:
                display.print(f"run {run.run_id}: {run.path}")
                body(state, display)
                write_all_details(state)
        except BaseException as e:
            error = e
        error, state.failure = _ending(error, state)
        result = record_of(state)
        _write(result, run)
        if not isinstance(error, KeyboardInterrupt):
            told = error is not None
            print_result(result, console, run.path, error_follows=told)
    if error is not None:
        raise error
    return 0


def record_of(state: RunState) -> RunResult:
    """Make the record of what a run has found so far."""
    tables = images_of_nodes(state.config)
    nodes = tuple(
        _node_result(node, state, tables.get(node.name)) for node in state.config.nodes
    )
    classes = {name: _own_classes(state, name, data) for name, data in tables.items()}
    teacher = None
    if state.teacher is not None:
        measured = _accuracies(state.teacher_measurement)
        teacher = teacher_result(state.teacher, measured)
    baselines = None
    if state.baselines is not None:
        baselines = tuple(
            baseline_result(
                each.node,
                each.result,
                each.usage,
                student=each.student,
                accuracies=_accuracies(
                    each.measurement, classes.get(each.node.name, ())
                ),
            )
            for each in sorted(
                state.baselines, key=lambda each: state.config.nodes.index(each.node)
            )
        )
    if state.failure is None or state.finished:
        verdict = make_verdict(nodes, teacher, baselines, state.dataset)
    else:
        verdict = describe_failure(state.phase, state.failure.message)
    return build_result(
        state.config,
        run_id=state.run.run_id,
        verdict=verdict,
        dataset=state.dataset,
        teacher=teacher,
        manifest=state.manifest,
        nodes=nodes,
        baselines=baselines,
        failure=state.failure,
        timings_s=state.phases.timings() if state.phases is not None else {},
    )


def _write(result: RunResult, run: RunFolder) -> None:
    """Write page, events and record; the record last: who waits for it finds the page.

    A page that cannot be made does not cost the record, which is all of the figures. A
    run that is stopped has ten seconds, and goes without events.
    """
    try:
        from deploy.report.page import write_page  # which loads matplotlib

        epochs, log = read_lines(run.cloud.progress), run.log("simulation")
        events: AbstractContextManager[None] = nullcontext()
        if interrupt_code() is None:
            events = writing_events(result, epochs, run.path, log)
        with events:
            write_page(result, run.path)
    finally:
        write_result(result, run.path)


def _ending(
    error: BaseException | None, state: RunState
) -> tuple[BaseException | None, Failure | None]:
    """Decide which error ends a run, and what its record says about it."""
    code = interrupt_code()
    if code is not None:
        where = f" in phase '{state.phase}'; what there is stays in {state.run.path}"
        return KeyboardInterrupt(where), Failure(code=code, message=f"stopped{where}")
    if error is None:
        error = _missing_students(state)
    elif not isinstance(error, TaktError):
        error = record_bug(error, state.run.logs)
    if error is None:
        return None, None
    return error, Failure(code=error.exit_code, message=printable(str(error)))


def _missing_students(state: RunState) -> TaktError | None:
    """Name the nodes that are without a student although the run went well."""
    missing = [
        f"{name} {found.state}{f' ({found.message})' if found.message else ''}"
        for name, found in state.finished.items()
        if found.state != DELIVERED
    ]
    if not missing:
        return None
    nodes = counted(len(state.finished), "node")
    return StudentError(
        f"{len(missing)} of {nodes} promoted no student: "
        f"{'; '.join(missing)}; see {state.run.logs}"
    )


def _node_result(
    node: NodeConfig, state: RunState, data: OwnImagesConfig | None
) -> NodeResult:
    found = state.finished.get(node.name)
    if found is None:
        status = state.nodes.status(node.name) if state.nodes is not None else None
        found = FinishedNode("not started" if status is None else status.state)
    classes = _own_classes(state, node.name, data)
    references = tuple(
        _reference(each, state, classes)
        for each in sorted(state.references or (), key=lambda each: each.kind)
        if each.node.name == node.name
    )
    return node_result(
        node,
        state.config,
        found.report,
        student=found.student,
        accuracies=_accuracies(found.measurement, classes),
        state=found.state,
        data=describe_images(data, state.drawn.get(node.name)),
        references=references or None,
        details=found.details,
    )


def _own_classes(
    state: RunState, name: str, data: OwnImagesConfig | None
) -> tuple[int, ...]:
    return own_classes(data, NUM_CLASSES, state.drawn.get(name))


def _reference(
    found: FinishedReference, state: RunState, classes: tuple[int, ...]
) -> Reference:
    """Describe what a node's student is seen beside."""
    recipe = state.config.students[found.node.student]
    planned = "natural" if found.kind == "natural" else recipe.method
    student = None
    if found.student is not None:
        student = Student(
            architecture=recipe.model,
            num_parameters=_num_parameters(found, state),
            path=str(found.student),
        )
    return reference_result(
        found.kind,
        found.result,
        student,
        method=planned if found.result is None else found.result.method,
        accuracies=_accuracies(found.measurement, classes),
        details=found.details,
    )


def _num_parameters(found: FinishedReference, state: RunState) -> int:
    if found.result is not None:
        return found.result.num_parameters
    assert state.manifest is not None
    return state.manifest.weights[found.node.student].num_parameters


def _accuracies(
    measurement: Measurement | None, classes: tuple[int, ...] = ()
) -> Accuracies | None:
    """Return what was measured; None: not yet, or the measurement failed.

    Args:
        measurement: of a model.
        classes: of the images of the node that it is for; empty: all alike.
    """
    if measurement is None or not measurement.done():
        return None
    try:
        return measurement.result(timeout=0, classes=classes)
    except TaktError:  # it failed
        return None
