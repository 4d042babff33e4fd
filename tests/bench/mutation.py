"""Mutants of the trust paths: which of them no test notices.

    .venv/bin/pip install --target /tmp/cosmic-ray cosmic-ray
    PYTHONPATH=/tmp/cosmic-ray .venv/bin/python tests/bench/mutation.py --mutants 100

cosmic-ray makes the mutants, a sample of them by seed; the tests that belong to a file
run on a copy of the clone. What became of each is kept in results/mutation.json, with
what it changed if it was not killed, and of how many it is one. Operators that only
touch annotations (``X | None``) are left out.
"""

import argparse
import difflib
import importlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from rows import Row, read_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).parent / "results" / "mutation.json"
TESTS = {
    "cloud/gateway/interceptor.py": "cloud/test_authorization.py",
    "cloud/gateway/authorization.py": "cloud/test_authorization.py",
    "cloud/gateway/quarantine.py": "cloud/test_quarantine.py",
    "cloud/pki/authority.py": "cloud/test_authority.py",
    "cloud/publishing/repository.py": "cloud/test_repository.py",
    "edge/releases/tuf_client.py": "edge/test_sync.py",
    "edge/releases/sync.py": "edge/test_sync.py edge/test_mixed_releases.py",
    "edge/releases/cache.py": "edge/test_sync.py",
    "common/release/shards.py": "common/test_release.py",
    "edge/daemon/promotion.py": "edge/test_promotion.py",
}
KINDS = ("Comparison", "AddNot", "BooleanOperator", "TrueWith", "FalseWith", "Number")
LIMIT_S = 300.0


def mutants_of(file: str) -> list[tuple[str, str]]:
    """List a file's mutants: operator and the whole text."""
    plugins: Any = importlib.import_module("cosmic_ray.plugins")
    mutating: Any = importlib.import_module("cosmic_ray.mutating")
    source, found = (ROOT / file).read_text(), list[tuple[str, str]]()
    for name in sorted(plugins.operator_names()):
        if any(kind in name for kind in KINDS):
            operator = plugins.get_operator(name)()
            for at in count():
                text = mutating.mutate_code(source, operator, at)
                if text is None:
                    break
                found.append((name, text))
    return found


def fate(copy: Path, file: str, text: str) -> str:
    """Run a file's tests on its mutant."""
    place = copy / file
    before = place.read_text()
    place.write_text(text)
    tests = [f"tests/{name}" for name in TESTS[file].split()]
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [*argv, "-m", "not slow", *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        place.write_text(before)
    return "survived" if done.returncode == 0 else "killed"


def main() -> None:
    """Try a sample of all mutants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS))
    parser.add_argument("--mutants", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    every = [(file, *mutant) for file in args.files for mutant in mutants_of(file)]
    chosen = random.Random(args.seed).sample(every, min(args.mutants, len(every)))
    rows = read_rows(ROWS)
    with tempfile.TemporaryDirectory(prefix="takt-mutants-") as folder:
        copy = Path(folder) / "clone"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "results"))
        for file in sorted({file for file, _, _ in chosen}):
            if fate(copy, file, (ROOT / file).read_text()) != "survived":
                sys.exit(f"{file}: its tests fail without any mutant")
        for file, operator, text in chosen:
            row: Row = {"file": file, "operator": operator, "of": len(every)}
            row["seed"] = args.seed
            row["fate"] = fate(copy, file, text)
            if row["fate"] != "killed":
                row["change"] = changed_lines((ROOT / file).read_text(), text)
            rows.append(row)
            write_rows(ROWS, rows)
            print(row, flush=True)


def changed_lines(before: str, after: str) -> list[str]:
    """Return what a mutant changed, as lines of a diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
    return [line for line in lines if line[:2] not in ("--", "++", "@@")]


if __name__ == "__main__":
    main()
