"""`takt runs`: a folder of runs, damaged ones among them, and two side by side."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import StorageError
from deploy.report.result import (
    Failure,
    ReleaseFacts,
    RunResult,
    read_result,
    write_result,
)
from deploy.report.runs import (
    config_differences,
    find_runs,
    print_comparison,
    print_runs,
)
from deploy.report.table import print_result
from deploy.report.wording import describe_failure

SAMPLE = read_result(Path(__file__).parents[1] / "support" / "sample_result.json")


def console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=140), text


def run(runs: Path, name: str, *, at: int, config: str = "", result: RunResult) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    record = write_result(result.model_copy(update={"run_id": name}), folder)
    os.utime(record, (at, at))
    (folder / "config.toml").write_text(config)
    return folder


def more_robust(by: float) -> RunResult:
    """Change the first node's AutoAttack figure."""
    first, *others = SAMPLE.nodes
    found = first.autoattack
    assert found is not None
    better = found.model_copy(update={"accuracy": found.accuracy + by})
    changed = first.model_copy(update={"robust": (better,)})
    return SAMPLE.model_copy(update={"nodes": (changed, *others)})


def test_runs_are_listed_by_time_and_a_damaged_one_keeps_nobody_out(
    tmp_path: Path,
) -> None:
    run(tmp_path, "second", at=2000, result=SAMPLE)
    run(tmp_path, "first", at=1000, result=SAMPLE)
    broken = run(tmp_path, "third", at=3000, result=SAMPLE) / "result.json"
    broken.write_text('{"schema": 1')
    os.utime(broken, (3000, 3000))
    (tmp_path / "compare").mkdir()  # no run
    found = find_runs(tmp_path)
    assert [line.folder.name for line in found] == ["first", "second", "third"]
    assert [line.result is None for line in found] == [False, False, True]
    screen, text = console()
    print_runs(tmp_path, screen, as_json=False)
    assert "damaged record" in text.getvalue() and "first" in text.getvalue()


def test_names_neither_steer_the_terminal_nor_are_taken_for_its_styles(
    tmp_path: Path,
) -> None:
    run(tmp_path, "[red]\x1b[2Jmine", at=1000, result=SAMPLE)
    screen, text = console()
    print_runs(tmp_path, screen, as_json=False)
    assert r"[red]\x1b[2Jmine" in text.getvalue()


def test_a_run_that_did_not_end_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.toml").write_text("seed = 1\n")
    (line,) = find_runs(tmp_path)
    assert "did not end" in line.fault


def test_the_list_as_json_has_each_nodes_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "one", at=1000, result=SAMPLE)
    print_runs(tmp_path, console()[0], as_json=True)
    (tree,) = json.loads(capsys.readouterr().out)
    node = SAMPLE.nodes[0]
    assert node.autoattack is not None
    assert tree["robust_accuracy"][node.name] == node.autoattack.accuracy


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="takt simulate"):
        find_runs(tmp_path / "nowhere")


def test_configs_differ_by_key_and_tables_of_a_list_by_name(tmp_path: Path) -> None:
    one = 'seed = 0\n[[nodes]]\nname = "a"\nstudent = "tiny"\n'
    other = 'seed = 1\n[[nodes]]\nname = "a"\nstudent = "small"\nmethod = "kd"\n'
    pair = [
        run(tmp_path, name, at=1, config=text, result=SAMPLE)
        for name, text in (("one", one), ("other", other))
    ]
    assert list(config_differences(*pair)) == [
        ("seed", "0", "1"),
        ("nodes.a.student", "tiny", "small"),
        ("nodes.a.method", "(not set)", "kd"),
    ]


def test_two_runs_are_compared_with_how_much_of_it_is_chance(tmp_path: Path) -> None:
    one = run(tmp_path, "one", at=1, config="seed = 0", result=SAMPLE)
    other = run(tmp_path, "other", at=1, config="seed = 7", result=more_robust(0.05))
    screen, text = console()
    print_comparison(one, other, screen)
    assert "seed: 0 -> 7" in text.getvalue()
    (row,) = (line for line in text.getvalue().splitlines() if "+5.0 +- " in line)
    assert row.startswith(SAMPLE.nodes[0].name)


def test_figures_of_another_eps_are_not_subtracted(tmp_path: Path) -> None:
    changed = more_robust(0.05)
    first, *others = changed.nodes
    (figure,) = first.robust
    wider = first.model_copy(
        update={"robust": (figure.model_copy(update={"eps": 0.3}),)}
    )
    other = changed.model_copy(update={"nodes": (wider, *others)})
    pair = [
        run(tmp_path, name, at=1, result=result)
        for name, result in (("one", SAMPLE), ("other", other))
    ]
    screen, text = console()
    one, two = pair
    print_comparison(one, two, screen)
    assert "another attack or eps" in text.getvalue()


def shown(result: RunResult, *, error_follows: bool = False) -> str:
    out, text = console()
    print_result(result, out, Path("gone"), error_follows=error_follows)
    return text.getvalue()


@pytest.mark.parametrize("release", [None, SAMPLE.release])
def test_a_failed_run_is_shown_with_its_verdict_and_error(
    release: ReleaseFacts | None,
) -> None:
    failed = SAMPLE.model_copy(
        update={
            "status": "failed",
            "release": release,
            "verdict": "The run ended in phase 'cluster'.",
            "error": Failure(code=10, message="Ray did not start"),
        }
    )
    text = shown(failed)
    assert "ended in phase 'cluster'" in text
    assert "exit code 10: Ray did not start" in text
    assert "Ray did not start" not in shown(failed, error_follows=True)


def test_an_error_that_the_verdict_names_is_not_said_twice() -> None:
    error = Failure(code=10, message="Ray did not start")
    verdict = describe_failure("cluster", error.message)
    failed = SAMPLE.model_copy(
        update={"release": None, "verdict": verdict, "error": error}
    )
    assert shown(failed).count("Ray did not start") == 1


def test_the_name_of_a_run_is_whole_on_any_terminal(tmp_path: Path) -> None:
    name = "a-long-name-20261129-193953"
    run(tmp_path, name, at=1000, result=SAMPLE)
    text = io.StringIO()
    print_runs(tmp_path, Console(file=text, width=40), as_json=False)
    assert name in text.getvalue()
