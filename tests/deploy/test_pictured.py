"""The pictured students of report.html: images, answers, classes, the curve."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from page_checker import PageChecker, checked
from sample_details import details, sample

from common.errors import StorageError
from deploy.cli.main import invoke
from deploy.report.by_class import class_rows, matrix, worst_class, worst_mistakes
from deploy.report.details import ClassDetail, Details, Mistake, write_details
from deploy.report.page import render, write_report
from deploy.report.pictured import MOST_PICTURED, choose
from deploy.report.result import Reference, RunResult, read_result, write_result

SAMPLE = read_result(Path(__file__).parents[1] / "support" / "sample_result.json")
STUDENT, TWIN = "details/camera/student.json", "details/camera/natural.json"


def pictured_run(*, twin: bool = True, nodes: int = 1, **changes: Any) -> RunResult:
    """A run whose nodes have details, and the first one a natural twin."""
    natural = Reference(kind="natural", method="natural", state="trained", details=TWIN)
    node = SAMPLE.nodes[0].model_copy(
        update={
            "name": "camera",
            "details": STUDENT,
            "references": (natural,) if twin else None,
            "curve": (),
            **changes,
        }
    )
    others = [node.model_copy(update={"name": f"n{k}"}) for k in range(1, nodes)]
    return SAMPLE.model_copy(update={"nodes": (node, *others)})


def kept(**changes: Any) -> Mapping[str, Details]:
    """Give details without curves, which take longest to draw."""
    undrawn = {"radii": ()} | changes
    return {STUDENT: details(**undrawn), TWIN: details(robust=4, radii=())}


@pytest.fixture(scope="module")
def page() -> PageChecker:
    return checked(
        render(pictured_run(), {STUDENT: details(), TWIN: details(robust=4)})
    )


def test_each_image_is_shown_clean_attacked_and_as_a_difference(
    page: PageChecker,
) -> None:
    expected = [
        f"data:image/png;base64,{png}"
        for each in details().samples
        for png in (each.x, each.x_adv, each.delta)
    ]
    assert [photo["src"] for photo in page.photos] == expected
    assert all(photo["alt"] for photo in page.photos)
    assert page.photos[1]["alt"] == "the same image, attacked: taken for 5"


def test_pictures_are_in_the_page_itself(page: PageChecker) -> None:
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    outside = [link for link in page.links if re.match(r"[a-z]+:|//", link)]
    assert all(link.startswith("data:image/png;base64,") for link in outside)
    assert "details/" in page.links


def test_what_an_attack_came_to_is_said_in_words(page: PageChecker) -> None:
    fates = re.findall(r"\b(broken|withstood|missed)\b(?= twin, clean)", page.words)
    assert fates == ["broken", "withstood", "missed"]
    assert "where that changed no answer the image withstood" in page.words


def test_an_image_that_pgd_alone_broke_is_not_said_to_withstand() -> None:
    odd = sample(1, 8, "autoattack").model_copy(update={"attack": "pgd"})
    text = checked(render(pictured_run(), kept(samples=(odd,)))).words
    assert "broken by PGD alone" in text


def test_answers_come_with_their_confidence_and_right_or_wrong(
    page: PageChecker,
) -> None:
    assert "clean \u2713 0 91 %" in page.words
    assert "attacked \u2717 5 62 %" in page.words


def test_a_natural_twin_answers_the_clean_the_same_and_its_own_image(
    page: PageChecker,
) -> None:
    assert "twin, clean \u2713 0 91 %" in page.words
    assert "twin, att. \u2717 6 83 %" in page.words
    assert "twin, own \u2717 5 62 %" in page.words
    assert page.words.count("trained without attacks") == 2


def test_without_a_twin_none_is_spoken_of() -> None:
    text = checked(render(pictured_run(twin=False), kept())).words
    assert "image by image" in text and "twin" not in text


def test_a_twin_of_fewer_classes_does_not_stop_the_page() -> None:
    few = details(classes=details().classes[-2:], mistakes=(), samples=(), radii=())
    full = details(radii=())
    for odd in ({STUDENT: full, TWIN: few}, {STUDENT: few, TWIN: full}):
        assert "image by image" in render(pictured_run(), odd)


def test_the_curve_says_which_attack_it_is_of_and_where_autoattack_is(
    page: PageChecker,
) -> None:
    assert (
        "Under PGD (20 x eps/8, random start, 1 restart, Linf, 180 test images) at eps "
        "from 0 to twice the threat model's"
    ) in page.words
    assert "Rings: AutoAttack" in page.words
    (drawn, *_) = (each for each in page.images if "eps" in str(each["aria-label"]))
    assert "camera: 57.0 % at eps 0.15, 17.0 % at 0.3" in str(drawn["aria-label"])
    assert "camera, natural twin: 0.0 % at eps 0.15" in str(drawn["aria-label"])


def test_the_worst_class_is_named_with_its_interval() -> None:
    assert worst_class(details()) == (
        "Worst under attack: 8, 11 of 20 images withstand (95 % interval 34 to 74 %); "
        "clean: 9, 91.7 %; not attacked: 9."
    )


def test_classes_that_are_equally_bad_are_named_together() -> None:
    alike = [ClassDetail(name=n, attacked=4, robust=1) for n in "abcde"]
    text = worst_class(details(classes=alike[:2], mistakes=(), samples=()))
    assert text.startswith("Worst under attack: a and b, 1 of 4 images withstand")
    text = worst_class(details(classes=alike, mistakes=(), samples=()))
    assert "a, b, c and 2 more" in text and "clean" not in text


def test_each_attacked_class_has_a_row_of_both_accuracies() -> None:
    rows = class_rows(details(), "s0")
    assert [row.name for row in rows] == list("012345678")
    assert rows[8].value == "55.0 %" and rows[8].value_details == ("97.2 % clean",)
    assert rows[8].bars[0].tick == 35 / 36


def test_the_confusion_has_what_withstood_on_its_diagonal() -> None:
    found = matrix(details())
    assert found is not None
    assert [found.counts[k][k] for k in range(10)] == [14] * 8 + [11, 0]
    assert found.counts[8][1] == 9 and found.counts[0][8] == 6
    assert [sum(row) for row in found.counts] == list(found.totals)
    assert worst_mistakes(details())[0] == "8 taken for 1, 9 of 20"


def test_of_many_classes_the_worst_and_the_commonest_mistakes_are_shown() -> None:
    classes = [ClassDetail(name=f"kind {k}", attacked=90, robust=k) for k in range(80)]
    mistakes = [Mistake(label=k, answer=k + 1, count=90 - k) for k in range(79)]
    many = details(classes=classes, mistakes=mistakes, samples=(), radii=())
    assert matrix(many) is None
    assert [row.name for row in class_rows(many, "s0")][:2] == ["kind 0", "kind 1"]
    text = checked(render(pictured_run(twin=False), {STUDENT: many})).words
    assert "kind 0 taken for kind 1, 90 of 90" in text and "kind 40" not in text


def test_hostile_names_of_classes_and_nodes_stay_texts() -> None:
    evil = "<script>alert(1)</script>'\"&{{ 7 * 7 }}$x$\x01"
    classes = [
        each.model_copy(update={"name": f"{evil}{each.name}"})
        for each in details().classes
    ]
    found = render(pictured_run(name=evil), kept(classes=tuple(classes)))
    page = checked(found)
    assert "script" not in page.tags
    assert "".join(page.text).count(evil) > 30
    assert not any(name.startswith("on") for name in page.attributes)


def test_a_page_of_many_nodes_pictures_some_and_stays_below_two_megabytes() -> None:
    large = details(
        radii=(),
        samples=tuple(
            sample(k, 64, "autoattack").model_copy(update={"label": 0})
            for k in range(10)
        ),
    )
    result = pictured_run(nodes=20)
    found = render(result, {STUDENT: large, TWIN: large})
    assert len(found.encode()) < 2_000_000
    shown = len(choose(result, {STUDENT: large}).students)
    assert 2 <= shown < 6
    words = checked(found).words
    assert f"Pictured are the first {shown} of 20 students" in words


def test_of_small_images_six_students_are_pictured() -> None:
    choice = choose(pictured_run(nodes=7), kept())
    assert len(choice.students) == MOST_PICTURED
    assert "the first 6 of 7 students" in choice.notes[0]


def test_a_page_is_made_from_the_folder_alone(tmp_path: Path) -> None:
    result = pictured_run()
    write_result(result, tmp_path)
    for name, each in kept().items():
        write_details(each, tmp_path, name)
    write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == render(result, kept())


def test_a_file_that_is_gone_costs_its_pictures_and_is_named(tmp_path: Path) -> None:
    write_result(pictured_run(), tmp_path)
    write_report(tmp_path)
    text = checked((tmp_path / "report.html").read_text()).words
    assert f"{STUDENT} is gone" in text and "image by image" not in text


def test_a_hostile_file_ends_in_one_line_and_the_old_page_stays(
    tmp_path: Path,
) -> None:
    write_result(pictured_run(twin=False), tmp_path)
    write_report(tmp_path)
    before = (tmp_path / "report.html").read_text()
    (tmp_path / STUDENT).parent.mkdir(parents=True)
    (tmp_path / STUDENT).write_text('{"eps": "<script>"}')
    with pytest.raises(StorageError, match="is damaged") as caught:
        invoke(["report", str(tmp_path)])
    assert "\n" not in str(caught.value)
    assert (tmp_path / "report.html").read_text() == before
