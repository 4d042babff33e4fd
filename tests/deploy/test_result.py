"""result.json is an interface: what it holds, and how it is read and written."""

import json
from pathlib import Path

import pytest

from common.errors import StorageError
from common.records import Evaluation, Profile
from deploy.report.result import (
    DatasetFacts,
    Failure,
    Machine,
    NodeResult,
    OwnImages,
    RunResult,
    Threat,
    read_result,
    to_json,
    write_result,
)
from deploy.report.wording import make_verdict

SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"


def result(**changes: object) -> RunResult:
    base = RunResult(
        run_id="digits-20260102-030405",
        takt_version="0.1.0",
        status="ok",
        verdict="Fine.",
        threat=Threat(norm="Linf", eps=0.15),
        machine=Machine(cores=2, memory_mib=1000, python="3.11.2"),
    )
    return base.model_copy(update=changes)


def node(name: str, accuracy: float | None, state: str = "promoted") -> NodeResult:
    robust: tuple[Evaluation, ...] = ()
    if accuracy is not None:
        robust = (
            Evaluation(
                attack="autoattack",
                version="standard",
                norm="Linf",
                eps=0.15,
                num_images=360,
                accuracy=accuracy,
                seed=0,
            ),
        )
    profile = Profile(cpus=0.5, memory_mib=600, bandwidth_kib_s=512)
    return NodeResult(
        name=name, profile=profile, method="takt", seed=0, state=state, robust=robust
    )


def test_a_result_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = read_result(SAMPLE)
    write_result(written, tmp_path)
    assert read_result(tmp_path) == written


def test_the_file_has_exactly_the_keys_of_the_design() -> None:
    tree = json.loads(to_json(read_result(SAMPLE)))
    assert list(tree) == [
        "schema",
        "run_id",
        "takt_version",
        "status",
        "verdict",
        "error",
        "dataset",
        "threat",
        "teacher",
        "release",
        "nodes",
        "timings_s",
        "machine",
    ]
    assert set(tree["nodes"][0]) == {
        "name",
        "profile",
        "cap",
        "student",
        "method",
        "seed",
        "clean_accuracy",
        "robust",
        "cpu_s",
        "peak_memory_mib",
        "pulled_bytes",
        "state",
        "curve",
    }
    assert tree["schema"] == 1 and tree["error"] is None


def test_what_was_not_measured_is_absent_and_never_null_or_zero() -> None:
    tree = json.loads(to_json(result(nodes=(node("hub", None, "failed"),))))
    assert "teacher" not in tree and "baselines" not in tree
    hub = tree["nodes"][0]
    assert not {"cap", "clean_accuracy", "peak_memory_mib", "pulled_bytes"} & set(hub)
    assert hub["cpu_s"] == {} and hub["robust"] == []


def test_a_failed_run_says_code_and_message() -> None:
    failure = Failure(code=10, message="Ray did not start")
    tree = json.loads(to_json(result(status="failed", error=failure)))
    assert tree["error"] == {"code": 10, "message": "Ray did not start"}


def test_a_missing_result_is_one_line_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no result at .*result\.json") as caught:
        read_result(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "schema None"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "run_id": "x"}', "takt_version"),
        ('{"schema": 1, "run_id": 7}', "run_id"),
    ],
)
def test_a_damaged_result_is_one_line_that_says_where(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(StorageError, match=said) as caught:
        read_result(tmp_path)
    assert "\n" not in str(caught.value)


def test_fields_of_a_later_takt_are_ignored(tmp_path: Path) -> None:
    tree = json.loads(SAMPLE.read_text()) | {"colour": "blue"}
    (tmp_path / "result.json").write_text(json.dumps(tree))
    assert read_result(tmp_path) == read_result(SAMPLE)


def test_the_verdict_counts_the_nodes_and_states_attack_and_images() -> None:
    teacher = read_result(SAMPLE).teacher
    verdict = make_verdict([node("a", 0.5), node("b", 0.75)], teacher)
    assert verdict == (
        "All 2 nodes promoted a student of 50.0 to 75.0 % robust accuracy, against "
        "80.5 % of the teacher (AutoAttack, Linf, eps 0.15, 360 images each, 200 for "
        "the teacher)."
    )


def test_a_student_of_a_shifted_camera_is_not_set_against_the_teacher() -> None:
    teacher = read_result(SAMPLE).teacher
    shifted = node("b", 0.25).model_copy(update={"data": OwnImages(shift="blur")})
    assert make_verdict([node("a", 0.5), shifted], teacher) == (
        "All 2 nodes promoted a student of 50.0 % robust accuracy, against 80.5 % of "
        "the teacher (AutoAttack, Linf, eps 0.15, 360 images, 200 for the teacher); "
        "on images shifted as its own are: b 25.0 %."
    )
    assert make_verdict([shifted], teacher) == (
        "The one node promoted a student of 25.0 % robust accuracy (AutoAttack, Linf, "
        "eps 0.15, 360 images)."
    )


def test_the_verdict_names_the_nodes_without_a_student() -> None:
    verdict = make_verdict([node("a", 0.5), node("b", None, "refused")], None)
    assert verdict.startswith("1 of 2 nodes promoted a student of 50.0 %")
    assert verdict.endswith("not so: b refused.")


def test_the_verdict_does_not_hide_a_baseline_that_won() -> None:
    baselines = [
        each.model_copy(update={"method": "pgd_at"})
        for each in (node("a", 0.6), node("b", 0.4))
    ]
    verdict = make_verdict([node("a", 0.5), node("b", 0.7)], None, baselines)
    assert (
        "-10.0 to +30.0 points over untuned PGD-AT with the same CPU-seconds" in verdict
    )


def test_the_verdict_says_when_nobody_promoted_a_student() -> None:
    assert make_verdict([node("a", None, "failed")], None) == (
        "No node promoted a student: a failed."
    )


def test_the_verdict_names_the_classes_that_were_not_measured() -> None:
    dataset = DatasetFacts(
        name="digits",
        fingerprint="f",
        num_train=36,
        num_test=360,
        absent_classes={"validation": ("3", "7")},
    )
    verdict = make_verdict([node("a", 0.5)], None, dataset=dataset)
    assert verdict.endswith("; no validation image is of class 3, 7.")
