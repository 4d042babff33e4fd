"""What a run keeps of its students for the page: which files, and who names them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from release_drafts import draft
from sample_details import NAMES, details

from common.pb.takt_pb2 import ReportRequest
from common.records import Evaluation
from deploy.evaluation.measurement import Measurement
from deploy.evaluation.pool import EvaluationPool
from deploy.evaluation.worker import AttackedSample, ClassCount, EvaluationReply
from deploy.report.details import Answer, read_details
from deploy.report.result import to_json
from deploy.runtime.settings import load_run_config
from deploy.simulation.details import write_all_details
from deploy.simulation.lifecycle import record_of
from deploy.simulation.references import References
from deploy.simulation.run_folder import create_run
from deploy.simulation.run_state import FinishedNode, FinishedReference, RunState
from deploy.simulation.simulate import wait_for_results

NAME = "details/sensor/student.json"


def done(reply: EvaluationReply) -> Future[EvaluationReply]:
    future: Future[EvaluationReply] = Future()
    future.set_result(reply)
    return future


def measured() -> Measurement:
    """A measurement as the workers answer it, of ten classes with two images each."""
    robust = Evaluation(
        attack="autoattack",
        version="standard",
        norm="Linf",
        eps=0.15,
        num_images=20,
        accuracy=0.5,
        seed=0,
    )
    counts = tuple(ClassCount(images=2, right=1) for _ in NAMES)
    clean = EvaluationReply(clean_accuracy=0.5, class_names=NAMES, by_class=counts)
    samples = tuple(
        AttackedSample(
            sample=each.model_copy(update={"same_image": None}), pixels="AAAA"
        )
        for each in details().samples
    )
    chunk = EvaluationReply(robust=robust, by_class=counts, samples=samples)
    radii = EvaluationReply(radii=details().radii)
    return Measurement(done(clean), [done(chunk)], done(radii))


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    """A run whose first node has promoted a student, and a twin of that."""
    config, text = load_run_config("digits-same")
    state = RunState(config, create_run(tmp_path, "digits", text))
    report = ReportRequest(outcome="promoted", architecture="cnn_tiny")
    state.finished["sensor"] = FinishedNode(
        "promoted",
        report=report,
        student=Path("students/sensor.safetensors"),
        measurement=measured(),
    )
    twin = FinishedReference(
        config.nodes[0],
        "natural",
        None,
        measurement=measured(),
        answers={1: Answer(label=4, confidence=0.5)},
    )
    state.references = [twin]
    return state


def test_the_record_names_the_files_of_a_student_and_of_its_twin(
    state: RunState,
) -> None:
    write_all_details(state)
    sensor, *others = record_of(state).nodes
    assert sensor.details == NAME and sensor.references is not None
    assert sensor.references[0].details == "details/sensor/natural.json"
    assert all(node.details is None for node in others)
    kept = read_details(state.run.path, NAME)
    assert kept is not None and [each.name for each in kept.classes] == list(NAMES)


def test_a_twins_file_has_what_it_says_of_its_students_images(state: RunState) -> None:
    write_all_details(state)
    kept = read_details(state.run.path, "details/sensor/natural.json")
    assert kept is not None
    answers = {each.position: each.same_image for each in kept.samples}
    assert answers == {0: None, 1: Answer(label=4, confidence=0.5), 2: None}


def test_a_student_as_shipped_has_no_file_beside_that_of_the_twin(
    state: RunState,
) -> None:
    assert state.references is not None
    shipped = replace(state.references[0], kind="shipped", measurement=measured())
    state.references.append(shipped)
    write_all_details(state)
    assert shipped.details is None
    assert state.references[0].details == "details/sensor/natural.json"


def test_a_student_that_is_not_measured_yet_has_no_file(state: RunState) -> None:
    pending: Future[EvaluationReply] = Future()
    state.references = None
    student = measured()
    state.finished["sensor"].measurement = Measurement(
        student.clean, [pending], student.radii
    )
    write_all_details(state)
    assert '"details"' not in to_json(record_of(state))
    assert not (state.run.path / "details").exists()


class LateReply(Future[EvaluationReply]):
    """A reply that comes when it is waited for, and not before."""

    def __init__(self, reply: EvaluationReply) -> None:
        """Keep the reply until then."""
        super().__init__()
        self._reply = reply

    def result(self, timeout: float | None = None) -> EvaluationReply:
        if not self.done():
            self.set_result(self._reply)
        return super().result(timeout)


def test_a_run_waits_for_what_its_page_draws_before_its_workers_are_ended(
    state: RunState,
) -> None:
    student = measured()
    assert student.radii is not None
    student.radii = LateReply(student.radii.result())
    state.finished["sensor"].measurement = student
    wait_for_results(state)
    write_all_details(state)
    assert record_of(state).nodes[0].details == NAME


class AskedPool:
    """Answers for a model, and notes which one and how many images."""

    def ask(self, model: Path, pixels: Sequence[str]) -> tuple[Answer, ...]:
        self.asked = (model.name, len(pixels))
        return tuple(Answer(label=k, confidence=0.5) for k in range(len(pixels)))


def test_a_twin_is_asked_about_the_images_that_its_student_was_attacked_with(
    state: RunState,
) -> None:
    assert state.references is not None
    (twin,) = state.references
    twin.student, state.manifest = Path("students/natural.safetensors"), draft()
    pool = AskedPool()
    References(state, cast(EvaluationPool, pool)).finish(compare=False)
    assert pool.asked == ("natural.safetensors", 3)
    assert {place: each.label for place, each in twin.answers.items()} == {
        0: 0,
        1: 1,
        2: 2,
    }


def test_a_nodes_entry_has_its_notes_and_its_figures_on_the_releases_images(
    state: RunState,
) -> None:
    report = state.finished["sensor"].report
    assert report is not None
    report.notes.append("2 are made grey")
    for accuracy, found in ((0.5, report.robust), (0.25, report.release_robust)):
        found.add(attack="pgd", version="1", norm="Linf", eps=0.1, num_images=4)
        found[0].accuracy = accuracy
    report.release_clean_accuracy = 0.75
    sensor, *others = record_of(state).nodes
    assert sensor.notes == ("2 are made grey",)
    assert sensor.release_clean_accuracy == 0.75
    assert sensor.release_robust is not None
    assert [e.accuracy for e in sensor.release_robust] == [0.25]
    assert others[0].notes is None and others[0].release_robust is None


def test_a_node_that_has_the_releases_images_alone_has_its_figures_once(
    state: RunState,
) -> None:
    report = state.finished["sensor"].report
    assert report is not None
    for found in (report.robust, report.release_robust):
        found.add(attack="pgd", version="1", norm="Linf", eps=0.1, num_images=4)
    report.release_clean_accuracy = 0.75
    sensor, *_ = record_of(state).nodes
    assert sensor.release_robust is None and sensor.release_clean_accuracy is None
