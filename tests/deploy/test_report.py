"""The report page and the terminal table: whole, safe, and honest."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from page_checker import PageChecker, checked
from rich.console import Console

from common.errors import StorageError
from deploy.report.bars import wilson
from deploy.report.charts import nice_ticks
from deploy.report.page import render, write_report
from deploy.report.result import Failure, NodeResult, RunResult, read_result, to_json
from deploy.report.table import print_result
from deploy.report.wording import TRIAL, make_verdict

SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"


def parsed(result: RunResult) -> PageChecker:
    return checked(render(result))


@pytest.fixture
def sample() -> RunResult:
    return read_result(SAMPLE)


def compared(sample: RunResult) -> RunResult:
    baselines = tuple(
        node.model_copy(update={"method": "pgd_at", "state": "trained"})
        for node in sample.nodes
    )
    return sample.model_copy(update={"baselines": baselines})


def printed(result: RunResult, width: int) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=width), SAMPLE.parent)
    return out.getvalue()


def test_names_in_a_runs_notes_and_error_do_not_steer_the_terminal(
    sample: RunResult,
) -> None:
    name = "a\x1b[2J\nb.png"
    assert sample.dataset is not None
    noted = sample.dataset.model_copy(update={"notes": (f"{name} is left out",)})
    error = Failure(code=3, message=f"cannot read {name}")
    lines = printed(
        sample.model_copy(update={"dataset": noted, "error": error}), 120
    ).splitlines()
    assert r"note: a\x1b[2J\nb.png is left out" in lines
    assert r"exit code 3: cannot read a\x1b[2J\nb.png" in lines


def test_a_nodes_notes_stand_below_the_table_and_on_the_page(
    sample: RunResult,
) -> None:
    first, *others = sample.nodes
    noted = first.model_copy(update={"notes": ("a\x1b[2J.png is left out", "two")})
    result = sample.model_copy(update={"nodes": (noted, *others)})
    lines = printed(result, 120).splitlines()
    assert rf"note: {first.name}: a\x1b[2J.png is left out" in lines
    assert f"note: {first.name}: two" in lines
    assert f"{first.name}: two" in " ".join(parsed(result).text)


def test_the_page_has_what_a_node_measured_on_the_releases_images(
    sample: RunResult,
) -> None:
    first, *others = sample.nodes
    update = {"release_robust": first.robust[-1:]}
    nodes = (first.model_copy(update=update), *others)
    text = " ".join(parsed(sample.model_copy(update={"nodes": nodes})).text)
    assert f"{first.name} (its claim, on the release's images)" in text


def test_the_page_is_self_contained_and_has_no_script(sample: RunResult) -> None:
    page = parsed(sample)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(not re.match(r"[a-z]+:|//", link) for link in page.links)
    assert "url(" not in render(sample) and "@import" not in render(sample)


def test_the_page_states_every_figure_with_its_attack(sample: RunResult) -> None:
    text = " ".join(parsed(sample).text)
    for node in sample.nodes:
        assert node.autoattack is not None
        assert f"{100 * node.autoattack.accuracy:.1f} % robust" in text
    assert "AutoAttack standard, Linf, eps 0.15, 360 images" in text


def test_a_hostile_node_name_stays_text(sample: RunResult) -> None:
    name = '<script>alert(1)</script>"&'
    first = sample.nodes[0].model_copy(update={"name": name})
    page = parsed(compared(sample.model_copy(update={"nodes": (first,)})))
    assert "script" not in page.tags
    assert name in "".join(page.text)


def test_hostile_texts_stay_texts_wherever_they_stand(sample: RunResult) -> None:
    evil = "<script>alert(1)</script>'\"&{{ 7 * 7 }}$x$\x01"
    hostile = sample.model_dump(by_alias=True)
    hostile["nodes"] = [{**node, "name": evil} for node in hostile["nodes"]]
    tree = _replaced(hostile, evil, keep={"attack", "status"})
    page = parsed(compared(RunResult.model_validate(tree)))
    assert "script" not in page.tags
    assert "".join(page.text).count(evil) > 20
    assert not any(name.startswith("on") for name in page.attributes)


def _replaced(tree: Any, text: str, keep: set[str]) -> Any:
    """Put `text` in the place of every string of a tree."""
    if isinstance(tree, dict):
        return {
            k: v if k in keep else _replaced(v, text, keep) for k, v in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_replaced(each, text, keep) for each in tree]
    return text if isinstance(tree, str) else tree


def test_what_was_not_measured_is_not_shown(sample: RunResult) -> None:
    node = sample.nodes[0].model_copy(
        update={"robust": (), "curve": (), "peak_memory_mib": None, "cap": None}
    )
    bare: dict[str, Any] = {
        "nodes": (node,),
        "teacher": None,
        "release": None,
        "timings_s": {},
    }
    text = " ".join(parsed(sample.model_copy(update=bare)).text)
    for absent in (
        "None",
        "False",
        "How robust",
        "How fast",
        "Memory",
        "Where the time",
    ):
        assert absent not in text
    assert "Soft caps" in " ".join(parsed(sample).text)  # of its node "hub"
    assert "Soft caps" not in text


def test_a_node_that_never_began_has_a_row_without_figures(sample: RunResult) -> None:
    node = sample.nodes[0]
    planned = NodeResult(
        name="late", profile=node.profile, method="takt", seed=0, state="idle"
    )
    page = render(sample.model_copy(update={"nodes": (planned,)}))
    row = page[page.index("held by</th>") : page.index(">idle<")]
    assert "late" in row
    assert re.findall(r"\d+\.\d+", row) == [f"{node.profile.cpus}"]


def test_a_page_is_small(sample: RunResult) -> None:
    assert len(render(compared(sample))) < 60_000


def test_every_picture_says_in_words_what_it_shows(sample: RunResult) -> None:
    pictures = parsed(compared(sample)).images
    assert pictures
    for picture in pictures:
        assert picture["role"] == "img"
        assert "ends at" in str(picture["aria-label"])


def test_the_page_follows_the_readers_colour_scheme(sample: RunResult) -> None:
    page = render(sample)
    assert "prefers-color-scheme: dark" in page
    style = page[page.index("<style>") : page.index("</style>")]
    body = page.replace(style, "")
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(", body)  # colours only by variable


def test_a_run_that_failed_early_still_has_a_page(sample: RunResult) -> None:
    failure = Failure(code=10, message="Ray did not start; see <logs>")
    early = RunResult(
        run_id="r",
        takt_version="0.1.0",
        status="failed",
        verdict="The run ended in phase 'cluster'.",
        error=failure,
        threat=sample.threat,
        machine=sample.machine,
    )
    text = " ".join(parsed(early).text)
    assert "Ray did not start; see <logs>" in text and "Exit code 10" in text


def test_rendering_again_from_the_result_gives_the_same_page(
    sample: RunResult, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_bytes(SAMPLE.read_bytes())
    write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == render(sample)


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_the_table_fits_any_terminal_without_cutting_a_figure(
    sample: RunResult, width: int
) -> None:
    text = printed(compared(sample), width)
    table = text[: text.index("report ")] if "report " in text else text
    assert max(len(line.rstrip()) for line in table.splitlines()) <= width
    for figure in ("60.8", "71.4", "76.4", "80.5", "10.4"):
        assert figure in table


def test_the_table_never_shows_robust_figures_without_their_attack(
    sample: RunResult,
) -> None:
    text = " ".join(printed(sample, 120).split())
    assert "AutoAttack standard, Linf, eps 0.15, 360 images a student" in text
    assert "teacher: AutoAttack standard, Linf, eps 0.15, 200 images" in text


def test_the_table_marks_caps_that_the_kernel_does_not_hold(sample: RunResult) -> None:
    assert "(soft)" in printed(sample, 140)
    assert "caps held softly: hub" in " ".join(printed(sample, 80).split())


def test_an_interval_holds_its_share_and_narrows_with_more_images() -> None:
    low, high = wilson(0.6, 100)
    assert low < 0.6 < high
    lower, higher = wilson(0.6, 1000)
    assert low < lower < 0.6 < higher < high
    assert wilson(1.0, 10)[1] == 1.0 and wilson(0.0, 10)[0] == 0.0


@pytest.mark.parametrize("top", [0.003, 0.9, 1.0, 7.3, 39.3, 40.0, 1234.0])
def test_ticks_are_few_and_reach_the_data(top: float) -> None:
    ticks = nice_ticks(top)
    assert ticks[0] == 0 and ticks[-1] >= top - 1e-9
    assert 2 <= len(ticks) <= 7


def test_a_trial_is_marked_in_result_table_and_page(tmp_path: Path) -> None:
    result = read_result(SAMPLE)
    assert result.teacher is not None
    teacher = result.teacher.model_copy(update={"trial": True})
    verdict = make_verdict(result.nodes, teacher, result.baselines)
    marked = result.model_copy(update={"teacher": teacher, "verdict": verdict})
    tree = json.loads(to_json(marked))
    assert tree["teacher"]["trial"] is True and TRIAL in tree["verdict"]
    assert "trial" not in json.loads(to_json(result))["teacher"]
    out = io.StringIO()
    print_result(marked, Console(file=out, width=120), tmp_path)
    table = " ".join(out.getvalue().split())
    assert TRIAL in table and "published" not in table
    page = " ".join(" ".join(parsed(marked).text).split())
    assert page.count(TRIAL) == 2  # the verdict, and beside the bars
    assert TRIAL not in render(result)


def claiming(**changes: Any) -> RunResult:
    """A run whose first node says of itself that AutoAttack found nothing."""
    result = read_result(SAMPLE)
    first, *others = result.nodes
    assert first.autoattack is not None
    claim = first.autoattack.model_copy(
        update={"accuracy": 0.999, "flags": ("validation_split",), **changes}
    )
    claimed = first.model_copy(update={"robust": (claim,)})
    return result.model_copy(update={"nodes": (claimed, *others)})


def test_what_a_node_says_of_itself_is_never_autoattack_of_the_clouds() -> None:
    result = claiming()
    assert result.nodes[0].autoattack is None
    console = Console(file=io.StringIO(), width=200)
    print_result(result, console, Path("/nonexistent"))
    assert isinstance(console.file, io.StringIO)
    assert "99.9" not in console.file.getvalue()


def test_the_page_shows_what_a_node_says_of_itself_as_its_claim_alone() -> None:
    result = claiming()
    rows = [row for row in render(result).split("<tr>") if "99.9 %" in row]
    assert len(rows) == 1
    assert f"{result.nodes[0].name} (the node&#39;s claim)" in rows[0]


@pytest.mark.parametrize("flags", [(), ("validation_split",)])
def test_an_evaluation_of_no_images_does_not_stop_the_page(
    flags: tuple[str, ...],
) -> None:
    page = render(claiming(num_images=0, flags=flags))
    assert page.rstrip().endswith("</html>")


def test_of_no_images_nothing_is_known() -> None:
    assert wilson(1.0, 0) == (0.0, 1.0)
