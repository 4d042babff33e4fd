"""Every gate and every test, in one command: `./takt test`, which CI runs too.

    ./takt test             the gates, then the default tests
    ./takt test --slow      and the tests marked slow
    ./takt test --docker    and those that need a Docker engine
    ./takt test --all       and all of them, those that need a GPU too
    ./takt test -k caps     anything else goes to pytest, and to pytest alone
    ./takt test --all --begin-before 1800000000
                            no group of tests begins after that Unix time

The gates run first, then the tests in groups: default, containers, slow, GPU. All of
them run, also after one failed. The last lines say of each whether it passed, and of
a group that did not run, why. Each gate is a program of its own in .venv/bin. Not
here: any setting of theirs, which pyproject.toml holds.
"""

import contextlib
import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.effective_limits import usable_cores

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STUBS = Path("common/pb")

LINTERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("buf lint", ("buf", "lint", "proto")),
    ("ruff format", ("ruff", "format", "--check")),
    ("ruff check", ("ruff", "check")),
    ("mypy", ("mypy",)),
    ("import-linter", ("lint-imports", "--no-logo")),
)
DEADLINE = "--begin-before"
NO_TESTS = 5  # pytest's exit code


class Group(NamedTuple):
    """Tests that run in one pytest process."""

    title: str
    markers: str | None  # pytest's -m; None: as the user's own options say
    switches: frozenset[str] = frozenset()  # that ask for it; none: it always runs
    parallel: bool = False  # on several cores at once, where no option says which tests


GROUPS = (
    Group("default tests", "not slow and not docker and not gpu", parallel=True),
    Group("container tests", "docker", frozenset({"--docker", "--all"})),
    Group("slow tests", "slow and not docker", frozenset({"--slow", "--all"}), True),
    Group("GPU tests", "gpu and not slow and not docker", frozenset({"--all"})),
)
MAX_WORKERS = 4  # the tests that start a Ray stay on one, and are the longest part then
SWITCHES = frozenset().union(*(group.switches for group in GROUPS))


def run_gates(
    options: Sequence[str], *, root: Path = ROOT, now: Callable[[], float] = time.time
) -> int:
    """Run all gates and the groups of tests that were asked for.

    Args:
        options: of the command line; see the module's docstring.
        root: the clone.
        now: Unix time in seconds.

    Returns:
        The exit code: 0 when everything that ran passed, else 1.
    """
    environment = gate_environment(os.environ)
    try:
        deadline, rest = take_deadline(options)
    except ValueError as e:
        print(f"takt test: {e}")
        return 2

    def run_program(*command: str) -> int:
        arguments = [str(BIN / command[0]), *command[1:]]
        code = subprocess.run(arguments, cwd=root, env=environment).returncode
        if code:
            # A crash while Python ends leaves no other trace than this.
            print(f"{command[0]}: {_ending(code)}", flush=True)
        return code

    summary = Summary(now)
    with summary.entry("stubs") as entry:
        entry.passed = stubs_are_current(root, environment)
    for title, command in LINTERS:
        with summary.entry(title) as entry:
            entry.passed = run_program(*command) == 0
    groups, pytest_options = groups_of(rest)
    found_tests = False
    for group in groups:
        if deadline is not None and now() >= deadline:
            summary.leave_out(group.title, "its time to begin has passed")
            continue
        with summary.entry(group.title) as entry:
            markers = [] if group.markers is None else ["-m", group.markers]
            workers = worker_options(group, pytest_options)
            code = run_program("pytest", *markers, *workers, *pytest_options)
            found_tests |= code != NO_TESTS
            entry.passed = code in (0, NO_TESTS)
    if groups and not found_tests and not summary.left_out:
        summary.leave_out("tests", "no test matches the options")
        summary.failed = True
    print(*summary.lines(), sep="\n", flush=True)
    return 1 if summary.failed else 0


class Entry:
    """One gate or group, while it runs."""

    passed = False


class Summary:
    """What ran, how it ended and how long it took, for the last lines."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with nothing; `now` gives seconds."""
        self._now = now
        self._lines: list[str] = []
        self.left_out = False
        self.failed = False

    @contextlib.contextmanager
    def entry(self, title: str) -> Iterator[Entry]:
        """Print a heading, time the body, note how it ended."""
        print(f"== {title}", flush=True)
        started, entry = self._now(), Entry()
        yield entry
        outcome = "passed" if entry.passed else "FAILED"
        line = f"{title}: {outcome} in {self._now() - started:.0f} s"
        self._lines.append(line)
        if not entry.passed:
            self.failed = True
            print(f"== {line}", flush=True)

    def leave_out(self, title: str, reason: str) -> None:
        """Note that something did not run, and why."""
        self._lines.append(f"{title}: did not run; {reason}")
        self.left_out = True

    def lines(self) -> list[str]:
        """List the entries in the order in which they ran."""
        return [f"takt test: {line}" for line in self._lines]


def take_deadline(options: Sequence[str]) -> tuple[float | None, list[str]]:
    """Split the options into the time of --begin-before, if given, and the rest.

    Raises:
        ValueError: the option has no value, or one that is no number.
    """
    rest = list(options)
    if DEADLINE not in rest:
        return None, rest
    at = rest.index(DEADLINE)
    value = rest[at + 1] if at + 1 < len(rest) else ""
    del rest[at : at + 2]
    try:
        return float(value), rest
    except ValueError:
        raise ValueError(
            f"{DEADLINE} takes a Unix time in seconds, not '{value}'; "
            f"for instance: {DEADLINE} $(($(date +%s) + 3600))"
        ) from None


def groups_of(options: Sequence[str]) -> tuple[list[Group], list[str]]:
    """Choose the groups of tests to run, and what each hands on to pytest.

    Markers that the user chose with -m are left alone: they make one group.
    """
    rest = [option for option in options if option not in SWITCHES]
    if any(option.startswith("-m") for option in rest):
        return [Group("chosen tests", None)], rest
    asked = set(options)
    groups = [g for g in GROUPS if not g.switches or g.switches & asked]
    return groups, rest


def worker_options(
    group: Group, options: Sequence[str], cores: int | None = None
) -> list[str]:
    """Choose pytest-xdist's options: one worker a core, for a whole group's tests only.

    Whoever chooses tests or options of pytest's own gets one process, where a debugger
    and printing work.
    """
    workers = min(cores or usable_cores(), MAX_WORKERS)
    if not group.parallel or options or workers < 2:
        return []
    # Which tests share a worker, and their order, is in tests/conftest.py.
    return ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]


def gate_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Add what the gates' programs need: .venv/bin first, and one thread each."""
    return {
        "OMP_NUM_THREADS": "1",  # small nets are slower on more, and so are neighbours
        "PYTHONFAULTHANDLER": "1",  # pytest's own ends before the interpreter does
        **outside,
        "PATH": f"{BIN}{os.pathsep}{outside.get('PATH', os.defpath)}",
    }


def stubs_are_current(root: Path, environment: Mapping[str, str]) -> bool:
    """Generate the stubs elsewhere and compare them with the committed ones."""
    with tempfile.TemporaryDirectory() as folder:
        generated = subprocess.run(
            ["sh", str(root / "proto" / "generate.sh"), folder], env=environment
        )
        if generated.returncode != 0:
            return False
        names = sorted(path.name for path in (Path(folder) / STUBS).iterdir())
        _, differ, missing = filecmp.cmpfiles(
            Path(folder) / STUBS, root / STUBS, names, shallow=False
        )
    for name in [*differ, *missing]:
        print(f"{STUBS / name} is not what proto/ makes; fix: proto/generate.sh")
    return not differ and not missing


def _ending(code: int) -> str:
    """Put into words how a program ended: its exit code, or the signal's name."""
    return f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"


if __name__ == "__main__":
    sys.exit(run_gates(sys.argv[1:]))
