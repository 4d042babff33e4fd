"""Every gate and every test, in one command: `./takt test`, which CI runs too.

    ./takt test             the gates, then the tests of the default suite
    ./takt test --slow      and the tests marked slow
    ./takt test --docker    and those that need a Docker engine
    ./takt test --all       and all of them, those that need a GPU too
    ./takt test -k caps     anything else goes to pytest, and to pytest alone

All gates run, also after one failed; what failed is listed at the end. Each gate
is a program of its own in .venv/bin. Not here: any setting of theirs, which
pyproject.toml holds.
"""

import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

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
# What the default suite leaves out, and the option that brings it in.
LEFT_OUT = {
    "slow": ("--slow", "--all"),
    "docker": ("--docker", "--all"),
    "gpu": ("--all",),
}
OPTIONS = {option for options in LEFT_OUT.values() for option in options}


def run_gates(options: Sequence[str], *, root: Path = ROOT) -> int:
    """Run all gates and tests.

    Args:
        options: of the command line; see the module's docstring.
        root: the clone.

    Returns:
        The exit code: 0 when everything passed, else 1.
    """
    environment = gate_environment(os.environ)

    def program(*command: str) -> bool:
        arguments = [str(BIN / command[0]), *command[1:]]
        code = subprocess.run(arguments, cwd=root, env=environment).returncode
        if code:
            # A crash while Python ends leaves no other trace than this.
            print(f"{command[0]}: {_ending(code)}", flush=True)
        return code == 0

    failed = []
    if not _timed("stubs", partial(stubs_are_current, root, environment)):
        failed.append("stubs")
    for title, command in LINTERS:
        if not _timed(title, partial(program, *command)):
            failed.append(title)
    if not _timed("pytest", partial(program, "pytest", *pytest_options(options))):
        failed.append("pytest")
    if failed:
        print(f"takt test: failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def gate_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Add what the gates' programs need: .venv/bin first, and one thread each."""
    return {
        "OMP_NUM_THREADS": "1",  # small nets are slower on more, and so are neighbours
        "PYTHONFAULTHANDLER": "1",  # pytest's own ends before the interpreter does
        **outside,
        "PATH": f"{BIN}{os.pathsep}{outside.get('PATH', os.defpath)}",
    }


def pytest_options(options: Sequence[str]) -> list[str]:
    """Turn --slow, --docker and --all into markers; hand everything else on.

    Markers that the user chose with -m are left alone.
    """
    rest = [option for option in options if option not in OPTIONS]
    if any(option.startswith("-m") for option in rest):
        return rest
    left_out = [
        f"not {marker}"
        for marker, switches in LEFT_OUT.items()
        if not set(switches) & set(options)
    ]
    return [*(["-m", " and ".join(left_out)] if left_out else []), *rest]


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


def _timed(title: str, gate: Callable[[], bool]) -> bool:
    """Run one gate under a heading."""
    print(f"== {title}", flush=True)
    started = time.monotonic()
    passed = gate()
    if not passed:
        print(f"== {title} FAILED ({time.monotonic() - started:.0f} s)", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(run_gates(sys.argv[1:]))
