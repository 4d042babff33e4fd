"""Each of the 53 faults broken on purpose: which of its tests notice.

    .venv/bin/python tests/bench/broken.py            # all cases
    .venv/bin/python tests/bench/broken.py A1 A2      # these

breaks.toml says for each case of FAULTS.md what protects against it, as the smallest
edits that take this away. A case that is protected in several ways has several breaks.
On a copy of the clone one break after the other is made, and the tests run that the
page names for its case, or those of them that the break names; slow and docker ones
only where there are no others. Before, all must pass on the copy as it is. Rows in
results/broken.json; a break that was noticed is not tried again, unless its edits or
the names of its tests change.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clone import Copy
from rows import Row, read_rows, write_rows

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from named_tests import fault_table, named_tests

HERE = Path(__file__).resolve().parent
ROWS, BREAKS = HERE / "results" / "broken.json", HERE / "breaks.toml"
TEST_LIMIT_S = 60  # a break may make a test wait for ever


class Edit(NamedTuple):
    """Text that occurs once in a file, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Break:
    """A case without its protection.

    Attributes:
        case: of FAULTS.md.
        words: what is missing then.
        edits: that take it away; several where it is protected in several places.
        tests: that are run, "file::test" from tests/, perhaps with a parameter.
        limit_s: for each of them.
    """

    case: str
    words: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    limit_s: int = TEST_LIMIT_S

    @property
    def files(self) -> tuple[str, ...]:
        """Name the files that are edited."""
        return tuple(dict.fromkeys(edit.file for edit in self.edits))

    @property
    def digest(self) -> str:
        """Identify case, edits and tests."""
        text = json.dumps([self.case, self.edits, self.tests])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_breaks() -> list[Break]:
    """Read the table of breaks; one without tests of its own has those of its case."""
    named = {
        case: tuple(f"{file}::{test}" for file, test in named_tests(shown_by))
        for case, shown_by in fault_table().items()
    }
    return [
        Break(
            each["case"],
            each["words"],
            tuple(Edit(**edit) for edit in each["edits"]),
            tuple(each.get("tests", named.get(each["case"], ()))),
            each.get("limit_s", TEST_LIMIT_S),
        )
        for each in tomllib.loads(BREAKS.read_text(encoding="utf-8"))["break"]
    ]


def edited(edits: Sequence[Edit], root: Path) -> dict[str, str]:
    """Return the whole text of each file with its edits.

    Raises:
        ValueError: the old text of an edit is not there exactly once.
    """
    texts: dict[str, str] = {}
    for file, old, new in edits:
        text = texts.get(file) or (root / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{file}: {text.count(old)} times, expected once: {old}")
        texts[file] = text.replace(old, new)
    return texts


def require_passing(copy: Copy, breaks: Sequence[Break]) -> None:
    """Run the tests of some breaks on the copy as it is.

    Raises:
        SystemExit: one fails.
    """
    if not breaks:
        return
    tests = dict.fromkeys(test for broken in breaks for test in broken.tests)
    found = copy.verdict(tuple(tests))
    failed, ran = [*found.failed], {*found.passed, *found.failed}
    for broken in breaks:
        names = (test.partition("[")[0] for test in broken.tests)
        if ran.isdisjoint(names):  # all are slow
            failed += copy.verdict(broken.tests).failed
    if failed:
        sys.exit(f"without any break there fail {', '.join(failed)}")


def tried(copy: Copy, broken: Break) -> Row:
    """Break a case, run its tests, mend it."""
    with copy.changed(edited(broken.edits, copy.root)):
        found = copy.verdict(broken.tests, broken.limit_s)
    print(f"{broken.case}: {found.first}: {found.says[:200]!r}", flush=True)
    return {
        "case": broken.case,
        "file": ", ".join(broken.files),
        "broken": broken.words,
        "noticed": bool(found.failed),
        "first": found.first,
        "failed": list(found.failed),
        "passed": list(found.passed),
        "digest": broken.digest,
    }


def main() -> None:
    """Try the cases that have no row yet, and say which were not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="default: all")
    args = parser.parse_args()
    breaks = read_breaks()
    rows = {row["digest"]: row for row in read_rows(ROWS) if row["noticed"]}
    pending = [
        broken
        for broken in breaks
        if broken.case in (args.cases or [broken.case]) and broken.digest not in rows
    ]
    with tempfile.TemporaryDirectory(prefix="takt-broken-") as folder:
        copy = Copy(Path(folder))
        require_passing(copy, pending)
        for broken in pending:
            rows[broken.digest] = tried(copy, broken)
            found = [b for b in breaks if b.digest in rows]
            write_rows(ROWS, [rows[b.digest] | {"broken": b.words} for b in found])
    missed = [
        f"{broken.case} ({broken.words})"
        for broken in breaks
        if broken.digest in rows and not rows[broken.digest]["noticed"]
    ]
    print(f"not noticed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
