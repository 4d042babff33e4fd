"""What a wrong command line is told: the verb's help, the option, what cannot be."""

import math
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from waiting import WAIT_S

from common.config import ProfileConfig
from common.errors import CapError, ConfigError
from deploy.cli import options
from deploy.cli.groups import VerbGroup
from deploy.cli.main import app
from deploy.runtime.settings import load_run_config
from deploy.selection.student import caps_of

GROUPS = [("", app)] + [
    (group.name or "", group.typer_instance)  # without a name: verbs of takt itself
    for group in app.registered_groups
    if group.typer_instance
]


def takt(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def refused(code: int, *arguments: str | Path) -> str:
    done = takt(*arguments)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("takt: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cloud", "train"], "Missing option '--config' / '-c'; see takt cloud train"),
        (["cloud", "frob"], "No such command 'frob'; see takt cloud"),
        (["pki", "lst"], "No such command 'lst'. Did you mean 'list'? See takt pki"),
        (["edge", "run", "-x"], "No such option: -x; see takt edge run"),
        (["pki", "rotate"], "Missing argument 'role'; see takt pki rotate"),
        (["frobnicate"], "No such command 'frobnicate'; see takt"),
        (
            ["test"],
            "No such command 'test' (it is of a clone: ./takt test); see takt",
        ),
        (
            ["simulate", "--limit", "many"],
            "--limit many: expected a whole number, for instance 3; see takt simulate",
        ),
        (
            ["fit", "--cpu-s", "much"],
            "--cpu-s much: expected a number, for instance 0.5; see takt fit",
        ),
    ],
)
def test_a_usage_error_points_to_the_help_of_its_own_verb(
    arguments: list[str], line: str
) -> None:
    assert refused(2, *arguments) == f"{line} --help"


@pytest.mark.parametrize(("group", "verbs"), GROUPS)
def test_help_lists_the_whole_line_of_each_verb(
    group: str, verbs: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = " ".join(takt(*group.split(), "--help").stdout.split())
    for verb in verbs.registered_commands:
        assert verb.callback is not None and verb.callback.__doc__ is not None
        assert verb.callback.__doc__.splitlines()[0].strip() in shown


@pytest.mark.parametrize("verbs", [verbs for _, verbs in GROUPS])
def test_help_shows_no_type_of_python(verbs: typer.Typer) -> None:
    command = typer.main.get_command(verbs)
    assert isinstance(command, VerbGroup)
    with command.make_context("takt", ["x"], resilient_parsing=True) as context:
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            with verb.make_context(name, [], resilient_parsing=True) as inner:
                assert "list[" not in verb.get_help(inner), name


def test_every_verb_that_reads_a_runs_config_takes_the_same_options_for_it() -> None:
    verbs = [v.callback for _, verbs in GROUPS for v in verbs.registered_commands]
    found = 0
    for verb in verbs:
        assert verb is not None
        hints = get_type_hints(verb, include_extras=True)
        if hints.get("config") != options.Config:
            continue
        found += 1
        for name in ("data_dir", "limit", "seed", "assign"):
            assert name in hints, f"{verb.__name__} lacks {name}"
    assert found >= 10


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"students.tiny.model": "cnn_tinny"},
            "--set students.tiny.model=cnn_tinny: no model is called 'cnn_tinny'",
        ),
        ({"teacher.epochs": 0}, "--set teacher.epochs=0: expected 1 or more"),
        ({"teacher.epoch": 8}, "--set teacher.epoch=8: unknown key 'teacher.epoch'"),
        ({"teacher": 1}, "--set teacher=1: expected a table"),
        (
            {"teacher.store": "foo://x"},
            "teacher.store = 'foo://x': expected s3://BUCKET/FOLDER",
        ),
        ({"dataset.name": "folder"}, "digits.toml: data set 'folder' needs"),
        (
            {"students.tiny.model": "wrn_28_10"},
            "--set students.tiny.model=wrn_28_10: model 'wrn_28_10' is a teacher only",
        ),
        (
            {"nodes.sensor.profile.cpus": math.inf, "seed": 1},
            "--set nodes.sensor.profile.cpus=inf: expected a finite number",
        ),
        (
            {"students.new.model": "cnn_tiny", "seed": 1},
            "digits.toml with --set students.new.model=cnn_tiny, --set seed=1: key "
            "'students.new.attack' is missing",
        ),
        (
            {"nodes.sensor.student": "huge"},
            "digits.toml with --set nodes.sensor.student=huge: node 'sensor' wants",
        ),
        (
            {"teacher.attack": {"steps": 0, "step_size": 0.1}},
            "--set teacher.attack={'steps': 0, 'step_size': 0.1}: "
            "teacher.attack.steps = 0: expected 1 or more",
        ),
    ],
)
def test_a_wrong_option_is_named_and_not_the_file(
    overrides: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config("digits", overrides)
    assert str(caught.value).startswith(line)


def test_a_file_that_is_wrong_by_itself_is_named_whatever_the_options(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(load_run_config("digits")[1].replace("epochs = 18", "epochs = 0"))
    with pytest.raises(
        ConfigError, match=r"run\.toml: teacher\.epochs = 0: expected 1"
    ):
        load_run_config(str(file), {"seed": 3})
    config, _ = load_run_config(str(file), {"teacher.epochs": 3})
    assert config.teacher.epochs == 3


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--limit", "3"], "--limit 3: expected 20 or more"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
    ],
)
def test_an_option_that_stands_for_a_key_is_named_as_it_was_typed(
    given: list[str], line: str
) -> None:
    assert refused(2, "simulate", *given) == line


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "cpu_s", "error", "named"),
    [
        (0.0, 500, 60.0, ConfigError, "--cpus 0: expected 0.01 to 1024"),
        (math.inf, 500, 60.0, ConfigError, "--cpus inf: expected 0.01 to 1024"),
        (1e-9, 500, 60.0, ConfigError, "--cpus 1e-09: expected 0.01 to 1024"),
        (1.0, 500, math.inf, ConfigError, "--cpu-s inf: expected a number above 0"),
        (1.0, 500, math.nan, ConfigError, "--cpu-s nan: expected a number above 0"),
        (1.0, 10, 60.0, CapError, "--memory-mib 10 is too small"),
    ],
)
def test_fit_names_the_number_that_is_impossible(
    cpus: float, memory_mib: int, cpu_s: float, error: type[Exception], named: str
) -> None:
    with pytest.raises(error) as caught:
        caps_of(cpus=cpus, memory_mib=memory_mib, cpu_s=cpu_s)
    assert str(caught.value).startswith(named)


def test_caps_that_are_possible_become_a_profile() -> None:
    profile = ProfileConfig(cpus=0.5, memory_mib=500, bandwidth_kib_s=1)
    assert caps_of(cpus=0.5, memory_mib=500, cpu_s=60.0) == profile


def test_a_report_on_a_folder_that_is_not_there_is_refused_at_once(
    tmp_path: Path,
) -> None:
    line = refused(
        8,
        *("cloud", "report", "-c", "digits", "--nodes-dir", tmp_path),
        *("--storage", tmp_path / "typo", "--runs-dir", tmp_path / "runs"),
    )
    assert line.startswith(f"there is no folder {tmp_path / 'typo'}; give")
    assert list(tmp_path.iterdir()) == []


def test_extract_asks_for_the_teacher_before_ray_is_started(tmp_path: Path) -> None:
    line = refused(8, "cloud", "extract", "-c", "digits", "-s", tmp_path / "none")
    assert "teacher.safetensors" in line and "train the teacher first" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb",
    [("simulate", "--runs-dir"), ("cloud", "run", "-s"), ("cloud", "extract", "-s")],
)
def test_views_that_no_student_is_trained_on_are_refused_before_the_work_begins(
    verb: tuple[str, ...], tmp_path: Path
) -> None:
    views = ("--set", "knowledge.num_views=9", "--set", "knowledge.shift=1")
    line = refused(2, *verb, tmp_path / "work", "-c", "digits-same", *views)
    assert line.startswith(
        "knowledge.num_views = 9, but no student reads soft labels of more than 1 "
        "(students.tiny.num_views = 1, students.small.num_views = 1"
    )
    assert "set knowledge.num_views = 1, or raise num_views of a student" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "run"])
def test_own_images_are_looked_for_before_ray_is_started(
    verb: str, tmp_path: Path
) -> None:
    folder = ("--set", "dataset.name=folder", "--data-dir", tmp_path / "none")
    line = refused(3, "cloud", verb, "-c", "digits", "-s", tmp_path / "cloud", *folder)
    assert str(tmp_path / "none") in line
    assert not (tmp_path / "cloud" / "logs").exists()


def test_a_node_that_could_train_nothing_is_refused_before_the_run_begins(
    tmp_path: Path,
) -> None:
    small = ("--set", "nodes.camera.profile.memory_mib=10")
    line = refused(4, "simulate", "--runs-dir", tmp_path / "runs", *small)
    assert line.startswith("memory cap 10 MiB of node 'camera' is too small")
    assert list(tmp_path.iterdir()) == []


def test_a_group_without_a_verb_shows_its_help() -> None:
    done = takt("pki")
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: takt pki")


def test_control_characters_of_a_file_name_do_not_reach_the_terminal() -> None:
    line = refused(8, "evaluate", "/gone/\x1b[31mred\x07.safetensors")
    assert line.isprintable() and "\\x1b[31mred\\x07.safetensors" in line
