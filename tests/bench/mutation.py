"""Mutants of the trust paths: which of them no test notices.

    .venv/bin/pip install --target /tmp/cosmic-ray cosmic-ray
    PYTHONPATH=/tmp/cosmic-ray .venv/bin/python tests/bench/mutation.py --mutants 100

cosmic-ray makes the mutants, a sample of them by seed; the tests that belong to a file
run on a copy of the clone. What became of each is kept in results/mutation.json, with
what it changed if it was not killed, and of how many it is one; such a mutant is tried
again, unless a "reason" was written into its row why no test needs to notice it, or the
test that notices it "since".
Operators that only touch annotations (``X | None``) are left out.
"""

import argparse
import difflib
import hashlib
import importlib
import random
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from clone import DID_NOT_END, ROOT, Copy
from rows import Row, read_rows, write_rows

ROWS = Path(__file__).parent / "results" / "mutation.json"
TESTS = {
    "cloud/gateway/interceptor.py": "cloud/test_authorization.py",
    "cloud/gateway/authorization.py": "cloud/test_authorization.py "
    "cloud/test_health.py",
    "cloud/gateway/quarantine.py": "cloud/test_quarantine.py",
    "cloud/pki/authority.py": "cloud/test_authority.py "
    "cloud/test_authority_rotation.py cloud/test_gateway_certificate.py",
    "cloud/publishing/ceremony.py": "cloud/test_ceremony.py cloud/test_thresholds.py "
    "cloud/test_online_keys.py",
    "cloud/publishing/repository.py": "cloud/test_repository.py "
    "cloud/test_repository_forgeries.py cloud/test_repository_offline_keys.py",
    "cloud/publishing/role_changes.py": "cloud/test_thresholds.py",
    "cloud/publishing/signing_keys.py": "cloud/test_signing_keys.py "
    "cloud/test_thresholds.py",
    "cloud/publishing/trusted_root.py": "cloud/test_ceremony.py "
    "cloud/test_thresholds.py cloud/test_repository.py",
    "edge/releases/tuf_client.py": "edge/test_sync.py",
    "edge/releases/sync.py": "edge/test_sync.py edge/test_mixed_releases.py",
    "edge/releases/cache.py": "edge/test_sync.py",
    "common/release/shards.py": "common/test_release.py common/test_release_images.py",
    "edge/daemon/promotion.py": "edge/test_promotion.py",
}
KINDS = ("Comparison", "AddNot", "BooleanOperator", "TrueWith", "FalseWith", "Number")
TEST_LIMIT_S = 60  # a mutant may make a test wait for ever


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


def fate(copy: Copy, file: str, text: str) -> str:
    """Run a file's tests on its mutant."""
    with copy.changed({file: text}):
        found = copy.verdict(TESTS[file].split(), TEST_LIMIT_S, first_only=True)
    if not found.failed:
        return "survived"
    return "timeout" if found.says == DID_NOT_END else "killed"


def digest_of(file: str, text: str) -> str:
    """Identify a mutant as long as its file does not change."""
    return hashlib.sha256(f"{file}\n{text}".encode()).hexdigest()[:16]


def main() -> None:
    """Try a sample of all mutants; those that were killed are not tried again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS))
    parser.add_argument("--mutants", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    every = [(file, *mutant) for file in args.files for mutant in mutants_of(file)]
    chosen = random.Random(args.seed).sample(every, min(args.mutants, len(every)))
    done = {row["digest"]: row for row in read_rows(ROWS)}
    settled = {key for key, row in done.items() if row["fate"] == "killed"}
    settled |= {key for key, row in done.items() if "reason" in row}
    chosen = [one for one in chosen if digest_of(one[0], one[2]) not in settled]
    with tempfile.TemporaryDirectory(prefix="takt-mutants-") as folder:
        copy = Copy(Path(folder))
        for file in sorted({file for file, _, _ in chosen}):
            if fate(copy, file, (ROOT / file).read_text()) != "survived":
                sys.exit(f"{file}: its tests fail without any mutant")
        for file, operator, text in chosen:
            digest = digest_of(file, text)
            row: Row = {"file": file, "operator": operator, "of": len(every)}
            row |= {"seed": args.seed, "digest": digest}
            row["fate"] = fate(copy, file, text)
            if row["fate"] != "killed":
                row["change"] = changed_lines((ROOT / file).read_text(), text)
            done[digest] = row
            write_rows(ROWS, [*done.values()])
            print(row, flush=True)


def changed_lines(before: str, after: str) -> list[str]:
    """Return what a mutant changed, as lines of a diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
    return [line for line in lines if line[:2] not in ("--", "++", "@@")]


if __name__ == "__main__":
    main()
