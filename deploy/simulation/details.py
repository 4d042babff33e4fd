"""What is kept of each measured student for the page: its file, and its twin's.

Not here: measuring (deploy.evaluation), what is in a file (deploy/report/details.py).
"""

from deploy.evaluation.measurement import Measurement
from deploy.report.details import Details, write_details
from deploy.simulation.run_folder import RunFolder
from deploy.simulation.run_state import FinishedReference, RunState

STUDENT, TWIN = "student", "natural"


def write_all_details(state: RunState) -> None:
    """Write a file for each student, and natural twin, that is measured by now.

    Args:
        state: of a run; takes the names of the files.

    Raises:
        StorageError: the run's folder cannot be written to.
        TaktError: a measurement failed.
    """
    for name, node in state.finished.items():
        found = _measured(node.measurement)
        if found is not None:
            node.details = _write(state.run, name, STUDENT, found)
    for twin in state.references or ():
        if twin.kind != "natural":
            continue
        found = _measured(twin.measurement)
        if found is not None:
            details = _with_answers(found, twin)
            twin.details = _write(state.run, twin.node.name, TWIN, details)


def _measured(measurement: Measurement | None) -> Details | None:
    if measurement is None or not measurement.has_details():
        return None
    return measurement.details()


def _with_answers(details: Details, twin: FinishedReference) -> Details:
    """Put what a twin says of its student's attacked images beside its own samples."""
    samples = tuple(
        sample.model_copy(update={"same_image": twin.answers.get(sample.position)})
        for sample in details.samples
    )
    return details.model_copy(update={"samples": samples})


def _write(run: RunFolder, node: str, kind: str, details: Details) -> str:
    name = run.details_of(node, kind)
    write_details(details, run.path, name)
    return name
