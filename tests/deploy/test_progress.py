"""Progress of long work: bars on a terminal, few plain lines elsewhere, or nothing."""

import io
import os
import subprocess
import sys
import threading
from inspect import signature
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from small_terminal import on_terminal
from typer.testing import CliRunner
from waiting import WAIT_S

from common.errors import StorageError
from deploy.cli.main import app
from deploy.runtime.progress import Display
from deploy.runtime.terminal import make_console

# A piece of work of 100 seconds, by a clock of its own; the last state stays a moment.
WORK = """
import sys
sys.path.insert(0, {root!r})
from deploy.runtime.progress import Display
from deploy.runtime.terminal import make_console
now = [0.0]
with Display(make_console(sys.stderr), clock=lambda: now[0]) as display:
    with display.step("teacher", "train it") as step:
        for epoch in range(1, 10):
            now[0] = 10.0 * epoch
            step.update(epoch / 10, detail=f"epoch {{epoch}}/10")
            display.bars.refresh()
        display.print("a line [bold] that stays")
"""
ROOT = str(Path(__file__).parents[2])


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def written(quiet: bool = False) -> tuple[Display, Clock, io.StringIO]:
    """Make a display that writes lines into a text."""
    text, clock = io.StringIO(), Clock()
    console = make_console(text)
    return Display(console, quiet=quiet, clock=clock), clock, text


def environment(**variables: str) -> dict[str, str]:
    names = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
    outside = {k: v for k, v in os.environ.items() if k not in names}
    return {**outside, "TERM": "xterm", **variables}


def work_on_terminal(**variables: str) -> str:
    argv = [sys.executable, "-c", WORK.format(root=ROOT)]
    code, shown = on_terminal(argv, 100, environment(**variables))
    assert code == 0, shown
    return shown


def test_on_a_terminal_there_is_a_bar_with_what_remains_and_it_is_removed() -> None:
    shown = work_on_terminal()
    assert "teacher" in shown and "epoch 5/10" in shown
    assert "\x1b[2K" in shown  # lines that are drawn anew
    assert "50 s left" in shown
    assert "a line [bold] that stays" in shown
    assert shown.rstrip().endswith("\r\x1b[2K\x1b[?25h")


def test_no_color_draws_bars_without_colours() -> None:
    shown = work_on_terminal(NO_COLOR="1")
    assert "50 s left" in shown
    assert "\x1b[3" not in shown  # a colour of the foreground


def test_a_dumb_terminal_gets_lines_without_control_characters() -> None:
    shown = work_on_terminal(TERM="dumb")
    assert "\x1b" not in shown
    assert "teacher: 50 %, 50 s left, epoch 5/10" in shown


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_a_bar_is_one_line_of_any_terminal(columns: int) -> None:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=True, color_system=None, width=columns)
    with Display(console, clock=clock) as display:
        step = display.step("teacher")
        for epoch in range(1, 10):
            clock.now = 10.0 * epoch
            step.update(epoch / 10, detail="clean 50.0 %, " * 20)
            display.bars.refresh()
    bars = [line for line in text.getvalue().split("\r") if "teacher" in line]
    assert bars and not any("\n" in line for line in bars[:-1])  # the last one goes
    assert max(cell_len(Text.from_ansi(line).plain) for line in bars) <= columns


def test_a_pipe_gets_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(root=ROOT)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    lines = done.stderr.splitlines()
    assert lines[0] == "[   0.0 s] teacher: train it"
    assert lines[2] == "[  20.0 s]   teacher: 20 %, 80 s left, epoch 2/10"
    assert lines[-1] == "a line [bold] that stays"
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    assert done.stdout == ""


def test_names_in_notes_and_details_do_not_steer_the_terminal() -> None:
    display, _, text = written()
    display.print("note: a\x1b[2J\nb.png is left out")
    display.step("node").update(0.5, stage="idle", detail="c\x1b[2J\nd.png")
    first, second = text.getvalue().splitlines()
    assert first == r"note: a\x1b[2J\nb.png is left out"
    assert second.endswith(r"node: idle, 50 %, c\x1b[2J\nd.png")


def test_there_is_no_estimate_before_a_pace_was_measured() -> None:
    display, clock, text = written()
    step = display.step("work")
    clock.now = 60.0  # what comes before the first report is no pace
    step.update(0.1)
    clock.now = 70.0
    step.update(0.3)
    first, second = text.getvalue().splitlines()
    assert first.endswith("work: 10 %")
    assert second.endswith("work: 30 %, 35 s left")


def test_another_stage_has_its_own_pace_and_so_has_a_share_that_falls() -> None:
    display, clock, text = written()
    step = display.step("work")
    for now, share, stage in (
        *((1, 0.1, "training"), (11, 0.5, "training")),
        *((21, 0.2, "attacking"), (31, 0.4, "attacking")),
        *((41, 0.1, "attacking"), (51, 0.5, "attacking")),
    ):
        clock.now = float(now)
        step.update(share, stage=stage)
    shown = [line.partition("work: ")[2] for line in text.getvalue().splitlines()]
    assert shown == [
        "training, 10 %",
        "training, 50 %, 13 s left",
        "attacking, 20 %",
        "attacking, 40 %, 30 s left",
        "attacking, 50 %, 13 s left",
    ]


def test_a_log_gets_few_lines_however_many_reports_there_are() -> None:
    display, clock, text = written()
    step = display.step("work", "do it")
    for i in range(5000):
        clock.now += 1.0
        step.update(i / 5000, stage="training")
    for i in range(1000):  # a node that is cut off again and again
        clock.now += 100.0
        step.update(0.5, stage=("pulling", "backing-off")[i % 2])
    assert len(text.getvalue().splitlines()) <= 1 + 11 + 2 * 4


def test_short_work_leaves_a_line_at_once_and_then_none_for_some_seconds() -> None:
    display, clock, text = written()
    step = display.step("work")
    for tenth in range(1, 11):
        clock.now += 0.1
        step.update(tenth / 10)
    assert text.getvalue().splitlines() == ["[   0.1 s]   work: 10 %"]


def test_quiet_shows_nothing_of_it() -> None:
    display, clock, text = written(quiet=True)
    with display, display.step("work", "do it") as step:
        clock.now = 9.0
        step.update(0.5, stage="training")
        display.print("a line")
        display.line("another")
    display.conclude("work", 9.0, "done it", ok=True)
    assert text.getvalue() == ""


def test_progress_is_followed_until_the_work_ends_and_survives_an_error() -> None:
    display, _, _ = written()
    looks: list[int] = []
    seen = threading.Event()

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            raise StorageError("not there yet")
        seen.set()

    with display.following(look):
        assert seen.wait(WAIT_S)
    num_looks = len(looks)
    assert threading.active_count() == 1 or "progress" not in {
        thread.name for thread in threading.enumerate()
    }
    assert len(looks) == num_looks


def test_every_verb_with_long_steps_takes_quiet() -> None:
    long = {
        *("simulate", "evaluate", "export", "fit", "compare", "report"),
        *("cloud run", "cloud train", "cloud extract", "cloud publish"),
        *("cloud report", "edge once", "edge export"),
    }
    found = {
        " ".join(filter(None, (group, verb.name or verb.callback.__name__)))
        for group, each in (
            ("", app),
            *((g.name or "", g.typer_instance) for g in app.registered_groups),
        )
        if each is not None
        for verb in each.registered_commands
        if verb.callback is not None and "quiet" in signature(verb.callback).parameters
    }
    assert found == long


def test_a_report_that_is_quiet_prints_the_result_alone(tmp_path: Path) -> None:
    sample = Path(__file__).parents[1] / "support" / "sample_result.json"
    (tmp_path / "result.json").write_bytes(sample.read_bytes())
    told = CliRunner().invoke(app, ["report", str(tmp_path)])
    quiet = CliRunner().invoke(app, ["report", str(tmp_path), "--quiet"])
    assert (told.exit_code, quiet.exit_code) == (0, 0)
    assert quiet.stdout == told.stdout != ""
    assert quiet.stderr == ""


def test_a_terminals_bar_says_nothing_of_time_before_it_knows() -> None:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=True, width=100)
    with Display(console, clock=clock) as display:
        step = display.step("work")
        step.update(0.5)
        display.bars.refresh()
        assert "left" not in text.getvalue()
        clock.now = 10.0
        step.update(0.75)
        display.bars.refresh()
    assert "10 s left" in text.getvalue()
