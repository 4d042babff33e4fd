"""Where a node's CPU time goes while it distils.

    .venv/bin/python tests/bench/profile_node.py digits-same tiny small

Trains the config's students on one thread under Python's profiler and adds up the
time of the parts of a step, each without the parts inside it. Writes
results/profile.json. The profiler itself costs some percent, of small nets more.
"""

import argparse
import cProfile
import json
import pstats
from pathlib import Path

import torch
from rows import write_rows

from common.data.datasets import load_dataset
from deploy.compare.teacher import prepare_stage
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.task import Task

ROWS = Path(__file__).parent / "results" / "profile.json"
# Functions, as (file, name), whose time with all that they call is one part. The
# attack and the loss stand for a forward and a backward pass each.
PARTS = {
    "attack": [("attacks.py", "warm_started")],
    "recall and keep deltas": [
        ("delta_memory.py", "recall"),
        ("delta_memory.py", "keep"),
    ],
    "training forward": [("losses.py", "takt_loss")],
    "training backward, optimiser, averaging": [("learner.py", "step")],
    "watching on validation images": [
        ("training.py", "validate"),
        ("training.py", "guard_against_overfitting"),
    ],
}


def profile(
    name: str, student: str, work: Path, data_dir: str | None
) -> dict[str, float]:
    """Train one student; return each part's share of the time."""
    overrides = {"dataset.data_dir": data_dir} if data_dir else {}
    config, _ = load_run_config(name, overrides)
    release = prepare_stage(config, work, lambda step, share: None)
    manifest = read_manifest(release)
    recipe = config.students[student]
    data = load_dataset(config.dataset, seed=config.seed)
    task = Task.of_release(
        manifest,
        train=Images.of(data.train),
        val=Images.of(data.val),
        knowledge=read_knowledge(manifest, release, recipe),
        seed=0,
    )
    profiler = cProfile.Profile()
    profiler.runcall(fit_student, recipe, task)
    stats = pstats.Stats(profiler)
    timings: dict[tuple[str, str], float] = {}
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        place = (Path(file).name, function)
        timings[place] = timings.get(place, 0.0) + cumulative
    total = timings["fit.py", "fit_student"]
    shares = {
        part: sum(timings.get(place, 0.0) for place in places) / total
        for part, places in PARTS.items()
    }
    return {**shares, "the rest": 1 - sum(shares.values()), "total_s": total}


def main() -> None:
    """Profile some students of a config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for student in options.students:
        found = profile(options.config, student, options.work, options.data_dir)
        rounded = {part: round(value, 3) for part, value in found.items()}
        rows.append({"config": options.config, "student": student, **rounded})
        print(json.dumps(rows[-1]))
    write_rows(ROWS, rows)


if __name__ == "__main__":
    main()
