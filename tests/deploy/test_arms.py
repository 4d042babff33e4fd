"""A node's student beside those that went without something: record, table, page."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from common.records import Evaluation
from deploy.report.arms import SHIPPED, TRAINED, arms_of, describe_own
from deploy.report.page import render
from deploy.report.result import (
    NodeResult,
    OwnImages,
    Reference,
    RunResult,
    read_result,
    to_json,
)
from deploy.report.table import print_result
from deploy.report.wording import make_verdict

SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"


def held(accuracy: float, num_images: int = 200, *flags: str) -> Evaluation:
    return Evaluation(
        attack="autoattack",
        version="standard",
        norm="Linf",
        eps=0.15,
        num_images=num_images,
        accuracy=accuracy,
        seed=0,
        flags=flags,
    )


def reference(kind: str, everything: float, own: float | None = None) -> Reference:
    return Reference(
        kind=kind,
        method="warm_at",
        robust=(held(everything),),
        own_class_robust=None if own is None else (held(own, 60, "own_classes"),),
        state="trained",
    )


def sensor(node: NodeResult) -> NodeResult:
    """Give a node 90 images of three classes, and students to be seen beside."""
    return node.model_copy(
        update={
            "name": "sensor",
            "data": OwnImages(images=90, classes=(2, 5, 8), labelled=1.0),
            "robust": (held(0.73),),
            "own_class_robust": (held(0.8, 60, "own_classes"),),
            "references": (
                reference("own_only", 0.2, 0.7),
                reference("shipped", 0.72, 0.65),
            ),
        }
    )


@pytest.fixture
def result() -> RunResult:
    sample = read_result(SAMPLE)
    node = sensor(sample.nodes[0])
    camera = node.model_copy(
        update={
            "name": "camera",
            "data": OwnImages(images=200, labelled=0.5, shift="rotation"),
            "own_class_robust": None,
            "references": (reference("shipped", 0.5),),
        }
    )
    nodes = (node, camera)
    verdict = make_verdict(nodes, sample.teacher)
    return sample.model_copy(update={"nodes": nodes, "verdict": verdict})


def printed(result: RunResult, width: int) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=width), SAMPLE.parent)
    return out.getvalue()


def test_a_gain_is_of_all_classes_or_of_a_nodes_own(result: RunResult) -> None:
    arms, camera = arms_of(result.nodes, None)
    assert arms.gain(SHIPPED) == pytest.approx(0.01)
    assert arms.gain(SHIPPED, own_classes=True) == pytest.approx(0.15)
    assert camera.gain(SHIPPED, own_classes=True) is None
    assert camera.gain("own images alone") is None


def test_the_verdict_says_what_training_added_at_each_node(result: RunResult) -> None:
    assert (
        "points over the student as shipped: sensor +1.0 (+15.0 on its own classes), "
        "camera +23.0"
    ) in result.verdict


def test_of_many_nodes_the_verdict_gives_the_range(result: RunResult) -> None:
    verdict = make_verdict(result.nodes * 3, None)
    assert "+1.0 to +23.0 points over the students as shipped" in verdict
    assert "+15.0 on own classes" in verdict


def test_a_baseline_without_a_teacher_is_called_that(result: RunResult) -> None:
    baseline = result.nodes[0].model_copy(
        update={"method": "warm_at", "robust": (held(0.7),)}
    )
    verdict = make_verdict(result.nodes, None, [baseline])
    name = "an untuned training without a teacher (warm_at)"
    assert f"+3.0 points over {name} with the same CPU-seconds" in verdict
    changed = result.model_copy(update={"baselines": (baseline,)})
    assert "without teacher" in printed(changed, 200)
    assert "70.0 % no teacher" in render(changed)


def test_the_table_shows_all_and_own_classes_of_each_student(
    result: RunResult,
) -> None:
    text = printed(result, 140)
    (row,) = [line for line in text.splitlines() if "90 of 2, 5, 8" in line]
    assert " ".join(row.split()[-9:]) == "20.0 / 70.0 72.0 / 65.0 73.0 / 80.0"
    (row,) = [line for line in text.splitlines() if "50 % labelled" in line]
    assert row.split()[-3:] == ["-", "50.0", "73.0"]
    words = " ".join(text.split())
    assert "after the stroke on the node's own classes: 60 images" in words
    assert "shifted as its own are: camera (rotation)" in words


def test_table_and_page_name_the_nodes_that_training_did_not_improve(
    result: RunResult,
) -> None:
    sensor, camera = result.nodes
    same = sensor.model_copy(update={"as_shipped": True})
    changed = result.model_copy(update={"nodes": (same, camera)})
    words = "as shipped, since training did not improve it: sensor"
    assert words in " ".join(printed(changed, 140).split())
    assert words in render(changed)
    assert "did not improve" not in printed(result, 140) + render(result)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_gets_a_block_for_each_node(
    result: RunResult, width: int
) -> None:
    text = printed(result, width)
    assert "73.0 / 80.0" in text
    assert all(len(line) <= width for line in text.splitlines() if "%" in line)


def test_the_page_shows_every_student_of_a_node(result: RunResult) -> None:
    page = render(result)
    assert "What training at the node added" in page
    for text in ("73.0 % trained here", "20.0 % alone", "65.0 % as shipped", "n = 60"):
        assert text in page


def test_without_references_there_is_no_such_table(result: RunResult) -> None:
    plain = read_result(SAMPLE)
    assert "images of its own" not in printed(plain, 140)
    assert "What training at the node added" not in render(plain)
    assert "shipped" not in plain.verdict


def test_the_record_reads_back_with_data_and_references(
    result: RunResult, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(to_json(result))
    found = read_result(tmp_path)
    assert found == result
    assert arms_of(found.nodes, None)[0].arms[TRAINED].all_classes.accuracy == 0.73


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "none"),
        (OwnImages(images=1000, labelled=1.0), "1,000"),
        (OwnImages(images=50, labelled=0.0, shift="blur"), "50, none labelled, blur"),
        (OwnImages(share_images=True), "a folder, shared"),
    ],
)
def test_own_images_are_described_in_a_few_words(
    data: OwnImages | None, words: str
) -> None:
    assert describe_own(data) == words
