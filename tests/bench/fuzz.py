"""Random changes of valid inputs, many of them, given to each reader of foreign bytes.

    .venv/bin/python tests/bench/fuzz.py shard manifest --inputs 1000000

How many inputs each target had, of which seed, and how many faults they found is kept
in results/fuzz.json; an input that is a fault is written to the folder of `--faults`.
A further run of a target adds to its count, with the next seed. Not here: the targets
(tests/support/fuzz_targets.py), and the short run among the tests.
"""

import argparse
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

from rows import read_rows, write_rows

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from fuzz_targets import TARGETS, Target, digest_of, mutated, open_target

ROWS = Path(__file__).parent / "results" / "fuzz.json"


def try_inputs(
    target: Target, num: int, seed: int, *, limit_s: float
) -> tuple[int, dict[str, bytes]]:
    """Run a target on changed seeds.

    Returns:
        How many inputs it had, and by kind of error the first that was a fault.
    """
    rng, faults = random.Random(seed), dict[str, bytes]()
    end = time.monotonic() + limit_s
    for done in range(num):
        if time.monotonic() > end:
            return done, faults
        data = mutated(rng.choice(target.seeds), rng)
        try:
            target.run(data)
        except Exception as e:
            faults.setdefault(f"{type(e).__name__}: {e}"[:200], data)
    return num, faults


def main() -> None:
    """Run the targets that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--limit-s", type=float, default=1e9, help="of each target")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in args.targets:
        rows = read_rows(ROWS)
        before = [row for row in rows if row["target"] == name]
        seed = max((row["seed"] for row in before), default=0) + 1
        with (
            tempfile.TemporaryDirectory(prefix="takt-fuzz-") as folder,
            open_target(name, Path(folder)) as target,
        ):
            num, faults = try_inputs(target, args.inputs, seed, limit_s=args.limit_s)
        for kind, data in faults.items():
            place = args.faults / name / digest_of(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            print(f"{name}: {kind} ({place})")
        row = {"target": name, "seed": seed, "inputs": num, "faults": len(faults)}
        write_rows(ROWS, [*rows, row])
        print(f"{name}: {num} inputs, {len(faults)} kinds of fault")


if __name__ == "__main__":
    main()
