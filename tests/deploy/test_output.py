"""Standard output that nobody reads, that is full, closed or a strange terminal."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_terminal import on_terminal

from deploy.runtime.terminal import PIPE_WIDTH

SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"
TAKT = [sys.executable, "-m", "deploy.cli.main"]
# One for each way in which the verbs write: typer, its help, rich's help, rich, print.
WAYS = ["exit-codes", "simulate --help", "pki --help", "report .", "doctor"]
PROGRAM = """
import contextlib, pathlib, sys, threading
from deploy.runtime.exits import run
def verb():
{body}
sys.exit(run(verb))
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "result.json").write_bytes(SAMPLE.read_bytes())
    return tmp_path


def program(body: str) -> list[str]:
    """A program whose verb is `body`."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-c", PROGRAM.format(body=lines)]


def without_reader(
    argv: list[str], cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            argv, cwd=cwd, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)


def on_full_device(
    argv: list[str], cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program whose output has no room."""
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            argv, cwd=cwd, stdout=full, stderr=subprocess.PIPE, text=True
        )


@pytest.mark.parametrize("verb", WAYS)
def test_a_reader_that_goes_away_ends_a_verb_without_a_word(
    verb: str, run_folder: Path
) -> None:
    done = without_reader([*TAKT, *verb.split()], run_folder)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("verb", WAYS)
def test_a_full_device_is_one_line_with_the_fix(verb: str, run_folder: Path) -> None:
    done = on_full_device([*TAKT, *verb.split()], run_folder)
    assert done.returncode == 8
    assert done.stderr.startswith("takt: cannot write standard output: No space left")
    assert done.stderr.count("\n") == 1


def test_a_failure_that_only_a_thread_met_decides_the_exit_code() -> None:
    body = (
        "def work():\n"
        "    with contextlib.suppress(Exception):\n"
        "        print('from a thread', flush=True)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()"
    )
    assert without_reader(program(body)).returncode == 141
    assert on_full_device(program(body)).returncode == 8


def test_each_thread_hears_of_a_failure_so_that_the_verb_ends(tmp_path: Path) -> None:
    body = (
        "def work():\n"
        "    with contextlib.suppress(Exception):\n"
        "        print('from a thread', flush=True)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print('from the verb', flush=True)\n"
        f"pathlib.Path({str(tmp_path / 'went on')!r}).touch()"
    )
    assert without_reader(program(body)).returncode == 141
    assert list(tmp_path.iterdir()) == []


def test_a_clean_up_may_print_after_the_failure(tmp_path: Path) -> None:
    body = (
        "try:\n"
        "    print('work', flush=True)\n"
        "finally:\n"
        "    print('cleaning', flush=True)\n"
        f"    pathlib.Path({str(tmp_path / 'cleaned')!r}).touch()"
    )
    assert without_reader(program(body)).returncode == 141
    assert (tmp_path / "cleaned").exists()


def test_an_error_keeps_its_code_where_its_line_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*TAKT, "report", "/nonexistent"], stderr=full)
    assert done.returncode == 8


def closed(redirections: str, argv: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program some of whose streams the caller closed."""
    script = f'exec "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *argv], capture_output=True, text=True
    )


@pytest.mark.parametrize("verb", ["exit-codes", "simulate --help"])
def test_output_that_the_caller_closed_is_a_write_error(verb: str) -> None:
    done = closed(">&-", [*TAKT, *verb.split()])
    assert done.returncode == 8
    assert done.stderr.startswith("takt: standard output is closed; send it to a file")
    assert done.stderr.count("\n") == 1


def test_closed_output_is_no_error_of_a_verb_that_writes_none() -> None:
    body = "print('an error goes elsewhere', file=sys.stderr)"
    done = closed(">&-", program(body))
    assert (done.returncode, done.stderr) == (0, "an error goes elsewhere\n")


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    body = (
        f"with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "    print('for nobody', file=sys.stderr)\n"
        "    file.write('ours')\n"
        "print('for nobody')"
    )
    assert closed("<&- >&- 2>&-", program(body)).returncode == 8
    assert (tmp_path / "file").read_text() == "ours"


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_names_that_the_encoding_lacks_are_written_as_escapes(
    encoding: str, run_folder: Path
) -> None:
    folder = run_folder / os.fsdecode("\u4e2d caf".encode() + b"\xe9")
    folder.mkdir()
    (run_folder / "result.json").rename(folder / "result.json")
    done = subprocess.run(
        [*TAKT, "report", str(folder)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding=encoding,
    )
    assert done.returncode == 0, done.stderr
    written = "\u4e2d" if encoding == "utf-8" else "\\u4e2d"
    assert f"{written} caf\\udce9/report.html" in done.stdout


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as the program at the other end may have set it
    room = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(program(f"print('x' * {3 * room})"), stdout=writer)
    os.close(writer)
    num_read = 0
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while part := pipe.read(512):
            num_read += len(part)
    assert (process.wait(), num_read) == (0, 3 * room + 1)


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def environment(**variables: str) -> Mapping[str, str]:
    names = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
    outside = {k: v for k, v in os.environ.items() if k not in names}
    return {**outside, **variables}


@pytest.mark.parametrize(("columns", "told"), [(20, ""), (160, ""), (160, "60")])
def test_a_dumb_terminal_keeps_its_width(
    columns: int, told: str, run_folder: Path
) -> None:
    report = [*TAKT, "report", str(run_folder)]
    outside = environment(TERM="dumb", COLUMNS=told)
    code, written = on_terminal(report, columns, outside)
    assert code == 0
    width = int(told or columns)
    assert "\x1b" not in written
    table, _, _ = written.partition("report  ")
    assert width // 2 < widest(table) <= width


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_forced_colours_do_not_make_a_pipe_a_terminal(
    term: str, run_folder: Path
) -> None:
    argv = [*TAKT, "report", str(run_folder)]
    told = environment(TERM=term, FORCE_COLOR="1")
    plain = subprocess.run(argv, env=environment(TERM=term), capture_output=True)
    forced = subprocess.run(argv, env=told, capture_output=True)
    assert b"\x1b[1m" in forced.stdout and b"\x1b" not in plain.stdout
    assert widest(plain.stdout.decode()) > PIPE_WIDTH - 20


@pytest.mark.parametrize("option", ["--data-dir", "--runs-dir"])
def test_a_folder_that_no_record_can_name_is_refused_before_anything_is_made(
    option: str, tmp_path: Path
) -> None:
    folder = os.fsdecode(b"caf\xe9")
    done = subprocess.run(
        [*TAKT, "simulate", option, folder],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "caf\\xe9 is not UTF-8" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
