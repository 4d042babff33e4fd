"""What `takt fit` says a student costs, against what its distillation took.

    .venv/bin/python tests/bench/sizing.py CONFIG STUDENT... [--repeats 3]

For each student in turn: a trial of a few steps, then the whole distillation, both in
children inside the same caps, on the same release. The rows go to results/sizing.json,
and the medians of what was taken to what was predicted are printed.
"""

import argparse
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from rows import read_rows, write_rows
from stage import Stage

from common.config import ProfileConfig, RunConfig
from deploy.runtime.settings import load_run_config
from edge.jobs.job import DistilJob
from edge.jobs.runner import Distillation
from edge.jobs.sizing import try_out

ROWS = Path(__file__).parent / "results" / "sizing.json"
PROFILE = ProfileConfig(cpus=1.0, memory_mib=1500, bandwidth_kib_s=1)


def measure(config: RunConfig, stage: Stage, student: str, seed: int) -> dict[str, Any]:
    """Try a student out, then distil it."""
    recipe = config.students[student]
    trial = try_out(
        recipe,
        PROFILE,
        release_dir=stage.release,
        dataset=config.dataset,
        seed=seed,
        eps=config.threat.eps,
        cpu_s=1e9,
    )
    assert trial.cost is not None, "memory ran out"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        job = DistilJob(
            release_dir=stage.release,
            student=student,
            dataset=config.dataset,
            work_dir=work,
            seed=seed,
        )
        outcome, usage = Distillation(
            PROFILE,
            node="bench",
            cap_method=None,
            stop=threading.Event(),
            on_progress=lambda point, usage: None,
        ).run(job, default_batch_size=recipe.batch_size)
    return {
        "dataset": config.dataset.name,
        "student": recipe.model,
        "num_parameters": outcome.num_parameters,
        "seed": seed,
        "said_cpu_s": round(trial.cost.cpu_s, 2),
        "taken_cpu_s": round(outcome.cpu_s.distil, 2),
        "said_mib": trial.peak_memory_mib,
        "taken_mib": round(usage.peak_memory_mib, 1),
        "flags": outcome.flags,
    }


def main() -> None:
    """Make the rows anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    config, _ = load_run_config(options.config, overrides)
    stage = Stage.prepare(config, options.work.absolute())
    anew = {(config.dataset.name, config.students[s].model) for s in options.students}
    kept = read_rows(ROWS)
    rows = [row for row in kept if (row["dataset"], row["student"]) not in anew]
    for seed in range(options.repeats):
        for student in options.students:
            rows.append(measure(config, stage, student, seed))
            print(rows[-1], flush=True)
            write_rows(ROWS, rows)
    for student in options.students:
        model = config.students[student].model
        place = (config.dataset.name, model)
        own = [row for row in rows if (row["dataset"], row["student"]) == place]
        cpu = median(row["taken_cpu_s"] / row["said_cpu_s"] for row in own)
        mib = median(row["taken_mib"] / row["said_mib"] for row in own)
        print(f"{model}: taken to predicted: CPU-s {cpu:.2f}, MiB {mib:.2f}")


if __name__ == "__main__":
    main()
