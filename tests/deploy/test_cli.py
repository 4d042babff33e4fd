"""The `takt` command: quick, one line for each error, and a documented exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from waiting import WAIT_S, until

from cloud.publishing.repository import ReleaseRepository
from common.errors import ConfigError
from deploy.cli.edge import node_file
from deploy.cli.main import app
from deploy.cli.options import existing_folder, expand, own_folder
from deploy.runtime.exits import record_bug
from deploy.runtime.settings import (
    load_run_config,
    parse_assignments,
    read_shipped,
    shipped,
)

HEAVY = {"ray", "torch", "matplotlib", "sqlalchemy", "grpc", "numpy", "cryptography"}
SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"


def takt(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S
    )


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{n.partition('.')[0] for n in sys.modules}})"
    done = python(script)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("takt: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["simulate", "--help"], ["compare", "--help"], ["fit", "--help"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"from deploy.cli.main import invoke\ninvoke({arguments})"
    assert not HEAVY & modules_after(code)


def test_the_edge_verbs_import_neither_ray_nor_torch() -> None:
    code = "import deploy.cli.main, edge.daemon, edge.daemon.enrolment, deploy.cli.edge"
    assert not {"ray", "torch", "sqlalchemy", "matplotlib"} & modules_after(code)


def test_the_simulation_itself_stays_without_torch() -> None:
    assert not {"torch", "matplotlib"} & modules_after(
        "import deploy.simulation.simulate"
    )


def test_help_lists_every_verb() -> None:
    done = takt("--help")
    assert done.returncode == 0
    for verb in (
        "simulate",
        "cloud",
        "edge",
        "pki",
        "evaluate",
        "report",
        "doctor",
        "fit",
    ):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["simulate", "--config", "nowhere.toml"],
            2,
            "cannot read config nowhere.toml",
        ),
        (["simulate", "--set", "threat.eps=8"], 2, "expected pixel scale"),
        (["simulate", "--set", "teacher.epoch=8"], 2, "did you mean 'epochs'"),
        (
            ["simulate", "--set", "students.tiny.model=cnn_tinny"],
            2,
            "did you mean 'cnn_tiny'",
        ),
        (["simulate", "--set", "teacher"], 2, "expected key=value"),
        (["simulate", "--set", "seed.x=1"], 2, "seed is not a table"),
        (["simulate", "--limit", "many"], 2, "--limit"),
        (["simulate", "--frobnicate"], 2, "No such option"),
        (["frobnicate"], 2, "No such command"),
        (["report", "/nonexistent"], 8, "no result at"),
        (["evaluate", "/nonexistent.safetensors"], 8, "cannot read model"),
        (["evaluate", "x.safetensors", "--attack", "cw"], 2, "autoattack, pgd"),
        (["evaluate", "x.safetensors", "--eps", "8"], 2, "8/255"),
        (["edge", "run", "--config", "/nonexistent.toml"], 2, "nonexistent"),
        (["edge", "status", "--config", "/nonexistent.toml"], 2, "nonexistent"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line_with_its_code(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=tmp_path,
    )
    assert done.returncode == code, done.stderr
    assert said in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_exit_codes_can_be_asked_for() -> None:
    done = takt("exit-codes")
    assert done.returncode == 0
    assert re.search(r"^ 130 .*Ctrl-C", done.stdout, re.MULTILINE)


def test_report_renders_again_and_prints_the_table(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(SAMPLE.read_bytes())
    done = takt("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cnn_medium (19,722)" in done.stdout
    assert str(tmp_path / "report.html") in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_output_without_a_terminal_has_no_escape_codes(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(SAMPLE.read_bytes())
    assert "\x1b" not in takt("report", tmp_path).stdout


def test_a_bug_is_one_line_that_names_its_traceback(tmp_path: Path) -> None:
    done = python(
        "import sys, tempfile\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "from deploy.runtime.exits import run\n"
        "sys.exit(run(lambda: 1 / 0))"
    )
    assert done.returncode == 70
    line = one_line(done.stderr)
    (log,) = tmp_path.glob("takt-bug-*.log")
    assert str(log) in line and "ZeroDivisionError" in line
    assert "Traceback" in log.read_text()


def test_the_traceback_of_a_bug_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.write_text("of the user")
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    (folder / "takt-bug-20260101-000000.log").symlink_to(kept)
    error = record_bug(ValueError("no"), folder)
    assert kept.read_text() == "of the user"
    (log,) = [path for path in folder.iterdir() if not path.is_symlink()]
    assert str(log) in str(error) and "ValueError" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_bug_is_still_one_line_when_its_log_cannot_be_written() -> None:
    error = record_bug(ValueError("two\nlines"), Path("/nonexistent"))
    assert "could not be written" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_a_signal_runs_the_clean_up_and_decides_the_exit_code(
    number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from deploy.runtime.exits import run\n"
            "def verb():\n"
            "    try:\n"
            "        print('ready', flush=True)\n"
            "        time.sleep(60)\n"
            "    finally:\n"
            "        print('cleaned', flush=True)\n"
            "sys.exit(run(verb))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_S)
    assert out == "cleaned\n"
    assert process.returncode == code
    assert number.name in one_line(err)


def test_a_node_that_waits_for_its_gateway_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("not read before there is an answer")
    (tmp_path / "edge.toml").write_text(
        'node = "n"\nstudent = "tiny"\ngateway = "127.0.0.1:9"\n'
        'enroll = "127.0.0.1:9"\nca = "ca.crt"\n'
        "[profile]\ncpus = 1.0\nmemory_mib = 500\nbandwidth_kib_s = 100\n"
    )
    config = str(tmp_path / "edge.toml")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", "edge", "run", "--config", config],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TAKT_TOKEN": "x"},
    )
    try:
        until("its key", (tmp_path / "identity" / "node.key").exists, alive=process)
        process.terminate()
        _, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert "Traceback" not in err


def test_a_signal_counts_also_where_a_library_took_its_handler() -> None:
    done = python(
        "import os, signal, sys\n"
        "from deploy.runtime.exits import run\n"
        "def verb():\n"
        "    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(run(verb))"
    )
    assert done.returncode == 130
    assert "SIGINT" in one_line(done.stderr)


def test_a_signal_that_a_library_swallows_stops_the_run_at_its_next_step() -> None:
    done = python(
        "import os, signal, sys\n"
        "from deploy.runtime.exits import arm_signals, run\n"
        "def verb():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "    arm_signals()\n"
        "    print('goes on')\n"
        "sys.exit(run(verb))"
    )
    assert done.stdout == "" and done.returncode == 143
    assert "SIGTERM" in one_line(done.stderr)


def test_a_run_below_nohup_outlives_its_terminal() -> None:
    done = python(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from deploy.runtime.exits import run\n"
        "def verb():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('goes on')\n"
        "sys.exit(run(verb))"
    )
    assert done.stdout == "goes on\n" and done.returncode == 0


def test_a_call_that_never_returns_does_not_hold_up_the_end() -> None:
    done = python(
        "import os, signal, threading\n"
        "from deploy.runtime.background import Background\n"
        "from deploy.runtime.exits import leave, run\n"
        "def verb():\n"
        "    with Background('waits') as background:\n"
        "        background.submit(threading.Event().wait)\n"
        "        threading.Thread(target=threading.Event().wait).start()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "leave(run(verb))"
    )
    assert done.returncode == 143
    assert "SIGTERM" in one_line(done.stderr)


def test_an_impatient_second_signal_does_not_cut_the_clean_up() -> None:
    done = python(
        "import os, signal, sys\n"
        "from deploy.runtime.exits import run\n"
        "def verb():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('cleaned')\n"
        "sys.exit(run(verb))"
    )
    assert done.stdout == "cleaned\n" and done.returncode == 130


def test_every_shipped_config_is_valid_and_known_by_name() -> None:
    assert "digits" in shipped("configs")
    for name in shipped("configs"):
        config, text = load_run_config(name)
        assert config.nodes and tomllib.loads(text)


def test_options_become_keys_of_the_config_that_the_run_writes_down() -> None:
    config, text = load_run_config(
        "digits", {"dataset.limit": 100, "seed": 7, "channel": "mine"}
    )
    assert (config.dataset.limit, config.seed, config.channel) == (100, 7, "mine")
    tree = tomllib.loads(text)
    assert tree["dataset"]["limit"] == 100 and tree["seed"] == 7
    assert type(config).model_validate_json(json.dumps(tree)) == config


def test_a_config_without_options_is_written_down_in_its_own_words() -> None:
    _, text = load_run_config("digits")
    assert text.startswith("#")
    assert load_run_config("digits", {"seed": 1})[1] == text.replace(
        "seed = 0", "seed = 1", 1
    )


def test_assignments_take_toml_values_and_bare_words() -> None:
    assert parse_assignments(["a.b=1", "c = 0.5", 'd="8/255"', "e=word", "f=[1]"]) == {
        "a.b": 1,
        "c": 0.5,
        "d": "8/255",
        "e": "word",
        "f": [1],
    }


def test_a_key_that_signs_is_replaced_by_a_verb(tmp_path: Path) -> None:
    repository = ReleaseRepository(tmp_path / "repository", tmp_path / "keys")
    repository.create()
    before = repository.root_json()
    done = takt("pki", "rotate", "timestamp", "--storage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert repository.root_json() != before


def test_a_role_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    ReleaseRepository(tmp_path / "repository", tmp_path / "keys").create()
    done = takt("pki", "rotate", "mirrors", "--storage", str(tmp_path))
    assert (done.returncode, "expected one of root" in one_line(done.stderr)) == (
        2,
        True,
    )


def test_serve_refuses_a_folder_without_a_project_before_it_makes_one(
    tmp_path: Path,
) -> None:
    done = takt("cloud", "serve", "-c", "digits", "--storage", tmp_path / "typo")
    assert done.returncode == 8
    assert "typo has no release yet" in one_line(done.stderr)
    assert not (tmp_path / "typo").exists()


EXPANDING = (expand, existing_folder, own_folder, node_file)


def test_every_path_option_expands_the_home_folder() -> None:
    of_other_machines = {"state"}  # of takt pki invite
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    verbs = [verb for group in groups if group for verb in group.registered_commands]
    found = 0
    for callback in (verb.callback for verb in verbs):
        assert callback is not None
        for name, hint in get_type_hints(callback, include_extras=True).items():
            kind, *options = get_args(hint) or (hint,)
            if Path in (kind, *get_args(kind)) and name not in of_other_machines:
                found += 1
                known = options[0].callback in EXPANDING
                assert known, f"{callback.__name__}: {name}"
    assert found > 20


def test_a_storage_option_with_a_tilde_is_the_home_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
    monkeypatch.chdir(tmp_path)
    done = takt("pki", "init", "--storage=~/takt")
    assert done.returncode == 0, done.stderr
    assert (home / "takt" / "pki" / "ca.crt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    done = takt("pki", "list", "--storage=~nobody-of-that-name/takt")
    assert done.returncode == 2
    assert "write the whole path" in one_line(done.stderr)


def test_a_relative_data_folder_counts_from_the_config_and_a_typed_one_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    _, text = load_run_config("digits", {"dataset.data_dir": "there"})
    file = tmp_path / "configs" / "run.toml"
    file.parent.mkdir()
    for written, meant in {
        "../data": file.parent / "../data",
        "~/data": tmp_path / "home" / "data",
        "/data": Path("/data"),
    }.items():
        file.write_text(text.replace(str(tmp_path / "there"), written))
        for name in ("configs/run.toml", str(file)):
            config, kept = load_run_config(name)
            assert config.dataset.data_dir == meant
            assert tomllib.loads(kept)["dataset"]["data_dir"] == str(meant)
    for typed, meant in {"x": tmp_path / "x", "~/x": tmp_path / "home" / "x"}.items():
        config, _ = load_run_config(str(file), {"dataset.data_dir": typed})
        assert config.dataset.data_dir == meant
    with pytest.raises(ConfigError, match="write the whole path"):
        file.write_text(text.replace(str(tmp_path / "there"), "~nobody-of-that-name"))
        load_run_config(str(file))


def test_configs_and_grids_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for folder, name in (("configs", "digits"), ("grids", "quick")):
        _, text = read_shipped(name, folder)
        (tmp_path / folder).write_text(text, encoding="utf-8-sig")
        assert read_shipped(str(tmp_path / folder), folder)[1] == text


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999999999999999"])
def test_a_seed_that_no_generator_takes_is_refused(seed: str) -> None:
    for verb in (["doctor", "--set", f"seed={seed}"], ["simulate", f"--seed={seed}"]):
        done = takt(*verb)
        assert done.returncode == 2, done.stderr
        assert f"seed={seed}" in one_line(done.stderr).replace(" ", "=")
    model = Path(__file__)  # is not looked at
    assert takt("evaluate", model, "--seed", seed).returncode == 2
