"""Who takes over: on the node's own images, and what the release's still show."""

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from edge_site import edge_site, recipe
from release_drafts import draft
from transfer_site import own_folder

from common.config import OwnImagesConfig, ProfileConfig, TuningConfig
from common.errors import StorageError
from common.records import CpuSeconds, Evaluation
from edge.config import EdgeConfig
from edge.daemon.job_setup import serving_student
from edge.daemon.node import NodeDaemon
from edge.daemon.promotion import decide, prune_students, store_student
from edge.daemon.reports import make_report
from edge.jobs.job import RESULT, DistilResult, RobustAccuracies
from edge.state import PROMOTED, STUDENT, Current, Promoted, StateDir


def evaluation(accuracy: float, num_images: int = 40) -> Evaluation:
    return Evaluation(
        attack="pgd",
        version="3 steps",
        norm="Linf",
        eps=0.15,
        num_images=num_images,
        accuracy=accuracy,
        seed=0,
    )


def result(own: float, release: float | None = None, **fields: Any) -> DistilResult:
    """The result of a student, on own images and on those of the release."""
    values: dict[str, Any] = {
        "student": "tiny",
        "architecture": "cnn_tiny",
        "num_parameters": 1,
        "method": "takt",
        "seed": 0,
        "batch_size": 2,
        "epochs": 1,
        "best_epoch": 1,
        "clean_accuracy": 0.9,
        "robust": (evaluation(own),),
        "release_robust": () if release is None else (evaluation(release, 60),),
        "curve": (),
        "cpu_s": CpuSeconds(distil=1, attack=0, evaluate=0),
        "weights_sha256": "0" * 64,
    }
    return DistilResult(**{**values, **fields})


def serving(own: float, release: float | None = None, **fields: Any) -> Promoted:
    given = result(own, release)
    values: dict[str, Any] = {
        "channel": "digits",
        "version": 3,
        "student": "tiny",
        "folder": "3",
        "weights_sha256": "1" * 64,
        "dataset": "digits",
        "fingerprint": draft().fingerprint,
        "eps": draft().eps,
        "clean_accuracy": 0.9,
        "robust": given.robust,
        "release_robust": given.release_robust,
    }
    return Promoted(**{**values, **fields})


def test_a_student_that_is_better_here_and_forgets_little_takes_over() -> None:
    decided = decide(result(0.72, 0.64), draft(), serving(0.70, 0.66))
    assert decided == (
        "promoted",
        "72.0% robust on own validation images and 64.0% on the release's, before "
        "70.0% and 66.0%",
    )


def test_one_that_forgets_more_than_it_may_is_kept_back_with_both_figures() -> None:
    decided = decide(result(0.80, 0.635), draft(), serving(0.70, 0.66))
    assert decided == (
        "kept",
        "forgets what the release's images show: 80.0% robust on own validation images "
        "and 63.5% on the release's, the student of version 3 has 70.0% and 66.0% and "
        "stays; max_forgetting is 2.0%",
    )


def test_how_much_may_be_forgotten_is_the_nodes_choice() -> None:
    given = (result(0.80, 0.60), draft(), serving(0.70, 0.66))
    assert decide(*given, max_forgetting=0.1)[0] == "promoted"
    assert decide(*given, max_forgetting=0.0)[0] == "kept"


def test_one_that_is_worse_on_own_images_is_kept_back_however_little_it_forgets() -> (
    None
):
    outcome, message = decide(result(0.69, 0.70), draft(), serving(0.70, 0.66))
    assert outcome == "kept"
    assert message == (
        "69.0% robust on own validation images and 70.0% on the release's, the student "
        "of version 3 has 70.0% and 66.0% and stays"
    )


def test_the_student_that_serves_counts_by_the_images_of_now() -> None:
    now = RobustAccuracies(own_robust=0.60, release_robust=0.66)
    outcome, message = decide(
        result(0.65, 0.66, serving=now), draft(fingerprint="f" * 64), serving(0.70)
    )
    assert outcome == "promoted"
    assert message.endswith("before 60.0% and 66.0%")


def retrained(
    state: StateDir, before: Promoted | None, release: float, version: int = 3
) -> tuple[str, Promoted | None]:
    """Decide on a student that is always better here; store one that is promoted."""
    work = state.work / f"{version}-{release}"
    work.mkdir(parents=True)
    digest = sha256(work.name.encode()).hexdigest()
    own = 0.70 if before is None else before.robust[0].accuracy + 0.01
    found = result(own, release, weights_sha256=digest)
    (work / STUDENT).write_bytes(work.name.encode())
    (work / RESULT).write_text(found.model_dump_json())
    outcome, _ = decide(found, draft(version=version), before)
    if outcome != "promoted":
        return outcome, before
    return outcome, store_student(state, work, found, draft(version=version), before)


def test_two_trainings_for_one_release_may_lose_no_more_than_one(
    state: StateDir,
) -> None:
    outcome, served = None, None
    for release in (0.66, 0.645):
        outcome, served = retrained(state, served, release)
        assert outcome == "promoted"
    assert served is not None and served.release_best == 0.66
    assert retrained(state, served, 0.63) == ("kept", served)
    assert retrained(state, served, 0.641)[0] == "promoted"


def test_what_is_forgotten_counts_from_the_release_that_is_trained_on(
    state: StateDir,
) -> None:
    served = None
    for release in (0.66, 0.645):
        _, served = retrained(state, served, release)
    outcome, served = retrained(state, served, 0.63, version=4)
    assert outcome == "promoted"
    assert served is not None and served.release_best == 0.63


def test_a_record_from_before_there_was_a_best_is_bounded_by_its_own_figure(
    state: StateDir,
) -> None:
    record = serving(0.70, 0.66).model_dump_json(exclude={"release_best"})
    outcome, served = retrained(state, Promoted.model_validate_json(record), 0.645)
    assert outcome == "promoted"
    assert served is not None and served.release_best == 0.66


def test_one_that_is_kept_back_for_the_best_of_its_release_says_so() -> None:
    before = serving(0.70, 0.645, release_best=0.66)
    outcome, message = decide(result(0.80, 0.63), draft(version=3), before)
    assert outcome == "kept"
    assert message.endswith("max_forgetting is 2.0%; this release's best had 66.0%")


def test_another_threat_is_another_matter_whatever_was_measured_now() -> None:
    now = RobustAccuracies(own_robust=0.9, release_robust=0.9)
    given = (result(0.5, 0.5, serving=now), draft(eps=0.3), serving(0.9))
    assert decide(*given) == (
        "promoted",
        "the release is of other data or another threat",
    )


@pytest.mark.parametrize("fingerprint", ["0" * 64, "f" * 64])
def test_a_student_of_other_images_is_no_measure_of_a_new_one(fingerprint: str) -> None:
    release = draft(fingerprint="8" * 64)
    given = (result(0.5), release, serving(0.9, fingerprint=fingerprint))
    assert decide(*given) == (
        "promoted",
        "the release is of other data or another threat",
    )


def test_a_release_without_other_images_is_judged_as_before() -> None:
    assert decide(result(0.7), draft(), serving(0.69)) == (
        "promoted",
        "70.0% robust on validation images, before 69.0%",
    )


@pytest.mark.parametrize(
    ("now", "before"), [(("pgd",), ("other",)), (("pgd",), ("pgd", "other"))]
)
def test_a_student_that_other_attacks_measured_is_no_measure_of_a_new_one(
    now: tuple[str, ...], before: tuple[str, ...]
) -> None:
    def by(attacks: tuple[str, ...], own: float) -> dict[str, Any]:
        each = evaluation(own)
        return {"robust": tuple(each.model_copy(update={"attack": a}) for a in attacks)}

    old = serving(0.9, **by(before, 0.9))
    assert decide(result(0.5, **by(now, 0.5)), draft(), old) == (
        "promoted",
        "the student that serves was measured by another attack",
    )


@pytest.mark.parametrize("before", [None, 0.5])
def test_starting_weights_that_training_did_not_improve_are_called_so(
    before: float | None,
) -> None:
    given = result(0.7, 0.6, flags=("as_shipped",))
    old = None if before is None else serving(before, 0.6)
    outcome, message = decide(given, draft(), old)
    assert outcome == "promoted"
    assert message.startswith(
        "the release's starting weights, which training did not improve: 70.0% robust"
    )


def test_a_student_is_measured_anew_where_its_node_has_no_own_images_any_more(
    tmp_path: Path,
) -> None:
    config = EdgeConfig(
        node="sensor",
        student="tiny",
        gateway="127.0.0.1:1",
        state_dir=tmp_path,
        profile=ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=100),
    )
    assert serving_student(config, serving(0.9, 0.6)) is not None
    assert serving_student(config, serving(0.6, 0.6)) is not None
    of_release = serving(0.6).model_copy(update={"release_robust": serving(0.6).robust})
    assert serving_student(config, of_release) is None
    assert serving_student(config, serving(0.6)) is None


def test_a_student_that_was_damaged_on_its_way_is_not_stored(tmp_path: Path) -> None:
    state, work = StateDir(tmp_path / "state"), tmp_path / "work"
    work.mkdir()
    (work / STUDENT).write_bytes(b"not what was measured")
    with pytest.raises(StorageError, match="its digest is not the result's; remove"):
        store_student(state, work, result(0.7), draft())
    assert not state.students.exists() or not [*state.students.iterdir()]


def weights_of(version: int) -> bytes:
    return f"weights of {version}".encode()


def store(state: StateDir, version: int) -> Promoted:
    """Store the student of a release, in the order of versions."""
    work = state.work / str(version)
    work.mkdir(parents=True)
    found = result(0.7, weights_sha256=sha256(weights_of(version)).hexdigest())
    (work / STUDENT).write_bytes(weights_of(version))
    (work / RESULT).write_text(found.model_dump_json())
    promoted = store_student(state, work, found, draft(version=version))
    folder = state.students / promoted.folder
    for path in (folder / PROMOTED, folder):
        os.utime(path, (version, version))
    return promoted


def promote(state: StateDir, version: int) -> Promoted:
    promoted = store(state, version)
    state.write_current(Current(promoted=promoted))
    prune_students(state, promoted)
    return promoted


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.create()
    return state


def test_a_kill_while_old_students_are_removed_costs_no_other_student(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_half_way(folder: Path, **_: Any) -> None:
        if folder.exists():
            (folder / STUDENT).unlink()
            raise KeyboardInterrupt

    for version in (1, 2):
        promote(state, version)
    third = store(state, 3)
    state.write_current(Current(promoted=third))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", die_half_way)
        prune_students(state, third)
    newest = promote(state, 4)
    state.student_file(newest).write_bytes(b"damaged")
    found = state.read_current().promoted
    assert found is not None and found.version == 3
    assert {path.name for path in state.students.iterdir()} == {"3", "4"}


def test_a_student_whose_file_is_damaged_is_not_the_one_to_fall_back_on(
    state: StateDir,
) -> None:
    for version in (1, 2):
        promoted = promote(state, version)
    state.student_file(promoted).write_bytes(b"damaged")
    promote(state, 3)
    assert {path.name for path in state.students.iterdir()} == {"1", "3"}


def test_what_a_kill_has_left_of_a_student_is_not_taken_for_it(state: StateDir) -> None:
    remnant = state.students / "5"
    remnant.mkdir()
    (remnant / PROMOTED).write_text("{}")
    promoted = store(state, 5)
    assert state.student_file(promoted).read_bytes() == weights_of(5)
    assert {path.name for path in state.students.iterdir()} == {promoted.folder}


@pytest.mark.parametrize("flags", [(), ("as_shipped",)])
def test_a_report_says_whether_the_student_is_as_shipped(
    flags: tuple[str, ...],
) -> None:
    report = make_report(
        Current(outcome="promoted"),
        profile=ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=100),
        result=result(0.7, 0.6, flags=flags),
        usage=None,
        seed=0,
        pulled_bytes=0,
    )
    assert report.as_shipped == bool(flags)


def test_a_nodes_report_says_what_its_own_images_brought(tmp_path: Path) -> None:
    own = OwnImagesConfig(folder=own_folder(tmp_path / "images", 80, unlabelled=10))
    # From random weights, as this site ships them: at the whole rate.
    tuning = TuningConfig(learning_rate=1.0, epochs=60)
    students = {"tiny": recipe(label_weight=0.3, learning_rate=0.3, tuning=tuning)}
    with edge_site(tmp_path / "site") as site:
        site.publish_transfer(num_val=40, students=students)
        config = site.join("sensor", data=own)
        current = NodeDaemon(config).once()
        assert site.gateway is not None
        (row,) = site.gateway.running.fleet.reports(node="sensor")
        site.publish_transfer(num_val=40, students=students)
        own_folder(tmp_path / "images", 90, unlabelled=10)
        again = NodeDaemon(config).once()
    report = row.report
    assert "before" in again.message or "and stays" in again.message
    num_val = report.robust[0].num_images
    assert current.outcome == "promoted", current.message
    assert "robust on own validation images and" in report.message
    assert (report.own_images, report.own_labelled) == (80 - num_val, 70 - num_val)
    assert report.release_robust[0].num_images == 40
    assert report.HasField("release_clean_accuracy")
    assert report.HasField("shipped_own_robust")
    assert report.HasField("shipped_release_robust")
