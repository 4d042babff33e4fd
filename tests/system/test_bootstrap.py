"""The bootstrap `./takt`, with a fake interpreter as its outside world.

The fake answers as python, venv, pip and uv do, writes down each call, and makes
files instead of downloads. What really comes over the network is shown by
test_edge_install.py and on a fresh machine.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from waiting import WAIT_S, until

ROOT = Path(__file__).resolve().parents[2]

FAKE_PYTHON = """#!/bin/sh
# python, and below .venv/bin also uv; $CALLS gets a line for each call.
make_takt() {
    printf '#!/bin/sh\\necho "ran takt $*"\\nexit 7\\n' >"$1" && chmod +x "$1"
}
case "$(basename "$0") $*" in
    "uv pip install"*)
        echo "uv $*" >>"$CALLS"
        [ ! -e "$CALLS.slow" ] || exec sleep 60
        [ ! -e "$CALLS.no-uv" ] || { echo "error: uv is out of order"; exit 2; }
        make_takt "$(dirname "$0")/takt" ;;
    *"-m venv "*)
        echo "venv" >>"$CALLS"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"-m pip "*"constraints.txt uv")
        echo "pip uv" >>"$CALLS"
        cp "$0" "$(dirname "$0")/uv" ;;
    *"-m pip "*)
        echo "pip $*" >>"$CALLS"
        [ ! -e "$CALLS.no-pip" ] ||
            { echo "ERROR: Could not find a version of torch"; exit 1; }
        make_takt "$(dirname "$0")/takt" ;;
    *"-m deploy.dev.gates"*) echo "ran gates $*" ;;
    *"-m deploy.dev.bytecode"*) ;;
    *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@dataclass
class Clone:
    """A copy of what the bootstrap reads, and a fake interpreter beside it."""

    home: Path
    python: Path
    calls_file: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def environment(self) -> dict[str, str]:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("TAKT_")}
        return {
            **outside,
            "CALLS": str(self.calls_file),
            "REAL_PYTHON": sys.executable,
            "PATH": f"{self.python.parent}{os.pathsep}{outside['PATH']}",
            **self.settings,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.home / "takt"), *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=WAIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def is_told(self, *what: str) -> None:
        """Make the fake world fail: no-uv, no-pip, slow."""
        for word in what:
            Path(f"{self.calls_file}.{word}").touch()

    def is_well_again(self) -> None:
        for path in self.calls_file.parent.glob("calls.*"):
            path.unlink()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    home = tmp_path / "a clone with spaces"
    home.mkdir()
    (home / "deploy" / "cli").mkdir(parents=True)
    for name in ("takt", "pyproject.toml", "constraints.txt", "deploy/cli/takt.sh"):
        shutil.copy(ROOT / name, home / name)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    return Clone(home, python, calls)


@contextmanager
def install_in_progress(clone: Clone) -> Iterator[subprocess.Popen[str]]:
    """Start an install whose downloads take a minute, and wait until they began."""
    clone.is_told("slow")
    with clone.start("status") as process:
        until(
            "an install",
            lambda: any(call.startswith("uv") for call in clone.calls),
            alive=process,
        )
        yield process


def test_the_first_call_installs_and_then_runs_the_verb_with_its_exit_code(
    clone: Clone,
) -> None:
    done = clone.run("simulate", "--config", "my file.toml")
    assert done.stdout == "ran takt simulate --config my file.toml\n"
    assert done.returncode == 7
    assert [call.split()[0] for call in clone.calls] == ["venv", "pip", "uv"]
    assert "--constraint constraints.txt" in clone.calls[-1]
    assert clone.calls[-1].endswith("--editable .[cloud]")


def test_the_second_call_installs_nothing_and_says_nothing(clone: Clone) -> None:
    clone.run("status")
    before = clone.calls
    done = clone.run("status")
    assert clone.calls == before
    assert done.stderr == ""
    assert done.stdout == "ran takt status\n"


def test_it_runs_through_a_symbolic_link_from_another_directory(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.run("status")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "one").symlink_to("../two")
    (tmp_path / "two").symlink_to(clone.home / "takt")
    monkeypatch.chdir("/")
    done = subprocess.run(
        [tmp_path / "far" / "one", "status"],
        env=clone.environment(),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("ran takt status\n", "")


def test_new_pins_install_again_but_new_lint_rules_do_not(clone: Clone) -> None:
    clone.run("status")
    before = clone.calls
    with (clone.home / "pyproject.toml").open("a") as file:
        file.write('\n[tool.ruff.lint.extra]\nnote = "of no interest"\n')
    clone.run("status")
    assert clone.calls == before
    for name in ("constraints.txt", "deploy/cli/takt.sh"):  # a pin; what was copied
        before = clone.calls
        with (clone.home / name).open("a") as file:
            file.write("# new\n")
        clone.run("status")
        assert clone.calls[len(before) :][-1].startswith("uv pip install")
        assert "venv" not in clone.calls[len(before) :]  # changed in place


def test_test_adds_what_the_tests_need_and_hands_its_options_to_the_gates(
    clone: Clone,
) -> None:
    done = clone.run("test", "-k", "caps and not slow")
    assert done.stdout == "ran gates -P -m deploy.dev.gates -k caps and not slow\n"
    assert clone.calls[-1].endswith("--editable .[cloud,dev]")
    before = clone.calls
    clone.run("status")
    clone.run("test")
    assert clone.calls == before


def test_settings_are_remembered_so_that_an_edge_node_stays_one(clone: Clone) -> None:
    clone.settings = {"TAKT_EXTRAS": "", "TAKT_TORCH_INDEX": "file:///cpu builds"}
    clone.run("status")
    assert clone.calls[-2].endswith(
        "--no-deps --index-url file:///cpu builds torch torchvision"
    )
    assert clone.calls[-1].endswith("--editable .")
    before = clone.calls
    clone.settings = {}
    clone.run("status")
    assert clone.calls == before


def test_remembered_settings_may_begin_with_a_byte_order_mark(clone: Clone) -> None:
    clone.settings = {"TAKT_EXTRAS": ""}
    clone.run("status")
    clone.settings = {}
    stamp = clone.home / ".venv" / "takt-installed"
    stamp.write_text(stamp.read_text(), encoding="utf-8-sig")  # an editor did that
    with (clone.home / "constraints.txt").open("a") as file:
        file.write("a-new-pin==1.0\n")
    clone.run("status")
    assert clone.calls[-1].endswith("--editable .")


def test_other_settings_start_over_with_a_new_venv(clone: Clone) -> None:
    clone.run("status")
    clone.settings = {"TAKT_EXTRAS": ""}
    clone.run("status")
    assert clone.calls.count("venv") == 2


def test_where_uv_cannot_pip_does_it(clone: Clone) -> None:
    clone.is_told("no-uv")
    done = clone.run("status")
    assert done.stdout == "ran takt status\n"
    assert "trying pip" in done.stderr
    assert clone.calls[-1].startswith("pip ")
    assert clone.calls[-1].endswith("--editable .[cloud]")


def test_a_failed_install_says_the_reason_in_one_line_and_is_redone(
    clone: Clone,
) -> None:
    clone.is_told("no-uv", "no-pip")
    done = clone.run("status")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("takt: cannot install after")
    assert "Could not find a version of torch" in last
    clone.is_well_again()
    assert clone.run("status").stdout == "ran takt status\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_an_install_at_once_and_the_next_call_starts_over(
    clone: Clone, number: signal.Signals, code: int
) -> None:
    with install_in_progress(clone) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == code
        assert err.splitlines()[-1].startswith("takt: install interrupted")
    clone.is_well_again()
    assert clone.run("status").stdout == "ran takt status\n"
    assert clone.calls.count("venv") == 2


def test_two_calls_at_once_install_once(clone: Clone) -> None:
    with clone.start("one") as first, clone.start("two") as second:
        answers = {call.communicate(timeout=WAIT_S)[0] for call in (first, second)}
    assert answers == {"ran takt one\n", "ran takt two\n"}
    assert clone.calls.count("venv") == 1


def test_a_moved_clone_gets_a_new_venv(clone: Clone, tmp_path: Path) -> None:
    clone.run("status")
    clone.home = clone.home.rename(tmp_path / "moved")
    assert clone.run("status").stdout == "ran takt status\n"
    assert clone.calls.count("venv") == 2


def test_modules_in_the_working_directory_or_on_pythonpath_are_left_alone(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("venv", "signal", "ensurepip"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the users')\n")
    monkeypatch.chdir(tmp_path)
    clone.settings = {"PYTHONPATH": str(tmp_path)}
    done = clone.run("status")
    assert (done.returncode, done.stdout) == (7, "ran takt status\n")


def test_without_a_fitting_python_it_says_the_fix(clone: Clone) -> None:
    clone.python.write_text("#!/bin/sh\necho 3.9 no\n")
    clone.settings = {"TAKT_PYTHON": str(clone.python)}
    done = clone.run("status")
    assert done.returncode == 1
    assert "not Python 3.11 to 3.14" in done.stderr
    assert "is 3.9" in done.stderr


def test_without_the_venv_module_it_names_the_package(clone: Clone) -> None:
    clone.python.write_text(
        '#!/bin/sh\ncase "$3" in *ensurepip*) exit 1;; *) echo 3.11 ok;; esac\n'
    )
    done = clone.run("status")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "apt-get install python3-venv" in done.stderr
