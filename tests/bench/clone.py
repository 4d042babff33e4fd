"""A copy of the clone, for benches that change its code: what its tests say there.

It has an interpreter of its own, so that children of tests import what is changed, too.
Used by broken.py and mutation.py. Not here: what they change.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT, SUPPORT = HERE.parents[1], HERE.parent / "support"
FAST = "not slow and not docker"
WHOLE_LIMIT_S = 600  # of a test, and of all beyond their own limits
DID_NOT_END = "did not end"
# By pytest's exit codes: code that is changed so that it does not import, or that a
# conftest or a plugin cannot bear, was noticed.
NOT_RUN = {
    2: "cannot be collected",
    3: "ended in an error of pytest's own",
    4: "cannot be started",
}


class Verdict(NamedTuple):
    """What tests said; each is "file::test", its file counted from tests/."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    first: str  # failed test, with its parameters
    says: str  # the first line of its failure, or why none ran


class Copy:
    """A copy of the clone, with an interpreter that imports it alone."""

    def __init__(self, folder: Path) -> None:
        """Copy what git knows, or would."""
        self.root = folder / "clone"
        self._report = folder / "report.xml"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name, follow_symlinks=False)
        venv.create(folder / "python", symlinks=True)
        (packages,) = (folder / "python").glob("lib/python*/site-packages")
        ours = (ROOT, HERE, SUPPORT)
        theirs = [path for path in sys.path if Path(path) not in ours]
        lines = [str(self.root), *(path for path in theirs if Path(path).is_dir())]
        (packages / "clone.pth").write_text("\n".join(lines) + "\n")
        self._python = str(folder / "python" / "bin" / "python")

    @contextlib.contextmanager
    def changed(self, texts: Mapping[str, str]) -> Iterator[None]:
        """Give files other texts, and their own again."""
        before = {
            file: (self.root / file).read_text(encoding="utf-8") for file in texts
        }
        try:
            self._write(texts)
            yield
        finally:
            self._write(before)

    def _write(self, texts: Mapping[str, str]) -> None:
        for file, text in texts.items():
            (self.root / file).write_text(text, encoding="utf-8")

    def verdict(
        self,
        tests: Sequence[str],
        limit_s: int = WHOLE_LIMIT_S,
        *,
        first_only: bool = False,
    ) -> Verdict:
        """Run tests; the slow ones only where there are no others.

        All have failed where they did not end, or could not be run with the code as it
        is; `says` is then `DID_NOT_END` or one of `NOT_RUN`.

        Args:
            tests: "file::test", or a file.
            limit_s: of each test.
            first_only: end with the first that fails.

        Raises:
            SystemExit: there are none, or pytest was ended by a signal.
        """
        options = [f"--timeout={limit_s}", *(["-x"] if first_only else [])]
        most_s = WHOLE_LIMIT_S + limit_s * len(tests)
        code = self._run(tests, ["-m", FAST, *options], most_s)
        if code == 5:  # none is left
            code = self._run(tests, options, most_s)
        if code is None:
            return Verdict((), tuple(tests), tests[0], DID_NOT_END)
        if code in NOT_RUN:
            return Verdict((), tuple(tests), tests[0], NOT_RUN[code])
        if code not in (0, 1):
            sys.exit(f"pytest ended with {code} for {' '.join(tests)}")
        passed, failed = list[str](), list[str]()
        first = says = ""
        for case in ElementTree.parse(self._report).iter("testcase"):
            file = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            whole = f"{file}.py::{case.get('name', '')}"
            problem = case.find("failure")
            problem = case.find("error") if problem is None else problem
            if problem is not None:
                first, says = first or whole, says or problem.get("message", "")
                failed.append(whole.partition("[")[0])
            elif case.find("skipped") is None:
                passed.append(whole.partition("[")[0])
        others = tuple(dict.fromkeys(name for name in passed if name not in failed))
        return Verdict(others, tuple(dict.fromkeys(failed)), first, says)

    def _run(
        self, tests: Sequence[str], options: Sequence[str], most_s: float
    ) -> int | None:
        """Run pytest in a session of its own, of which nothing is left.

        Returns:
            Its exit code; None where it had to be ended.
        """
        self._report.unlink(missing_ok=True)
        argv = [self._python, "-m", "pytest", "-q", "-pno:cacheprovider", "-m", ""]
        argv += [*options, f"--junitxml={self._report}"]  # the last -m counts
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with subprocess.Popen(
            [*argv, *(f"tests/{test}" for test in tests)],
            cwd=self.root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                return process.wait(most_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
