"""How long a stopped simulation takes to end, by phase, signal and whom it reaches.

    .venv/bin/python tests/bench/signal_latency.py [--times N] [--seconds-after S]

Each run is a small one of `takt simulate`, in a session of its own. Some seconds after
its output has come to a phase the signal is sent, as Ctrl-C sends it to the run's
process group, `timeout` and a closed terminal too, and a container engine to every
process. A row has the seconds from there until the run has ended, its exit code, and
how many processes that it had started and files in its temporary folder are left. Rows
go to results/signal_latency.json as they come; what is there is not made again. That
codes and records are right is held by tests/system/test_simulate.py.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, read_rows, write_rows

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from stopping import Family

ROWS = Path(__file__).parent / "results" / "signal_latency.json"
SMALL = (
    "dataset.limit=200",
    "teacher.epochs=2",
    "teacher.num_workers=2",
    'teacher.model="cnn_small"',
    "knowledge.num_actors=1",
    "students.tiny.epochs=2",
    "evaluation.teacher_images=8",
    'nodes=[{name="sensor", student="tiny", profile={cpus=0.5, memory_mib=500, '
    "bandwidth_kib_s=512}}]",
)
# The line that a phase begins with, and what makes the phase long.
PHASES = {
    "cluster": ("cluster: start", "seed=0"),
    "teacher": ("/500", "teacher.epochs=500"),
    "knowledge": ("knowledge: extract", "knowledge.attack.steps=1000"),
    "nodes": ("nodes: pull", "students.tiny.epochs=9000"),
    "evaluation": ("evaluation: AutoAttack", "evaluation.autoattack_images=360"),
}
SIGNALS = (("SIGINT", "group"), ("SIGTERM", "group"), ("SIGTERM", "all"))
MOST_S = 300


def stopped(phase: str, name: str, reaches: str, after_s: float) -> Row:
    """Stop one run; say how it ended."""
    line, longer = PHASES[phase]
    with tempfile.TemporaryDirectory() as root:
        work, temporary = Path(root, "runs"), Path(root, "t")
        temporary.mkdir()
        argv = [sys.executable, "-P", "-m", "deploy.cli.main", "simulate"]
        argv += ["--config", "digits-same", "--runs-dir", str(work)]
        for each in (*SMALL, longer):
            argv += ["--set", each]
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        with process:
            assert process.stdout is not None
            said = next((text for text in process.stdout if line in text), None)
            assert said is not None, f"{phase}: the run ended by itself"
            time.sleep(after_s)
            family, started = Family(process.pid), time.monotonic()
            family.signal(signal.Signals[name], reaches=reaches)
            process.communicate(timeout=MOST_S)
            seconds = time.monotonic() - started
        return {
            "phase": phase,
            "signal": name,
            "reaches": reaches,
            "seconds_after": after_s,
            "seconds": round(seconds, 2),
            "code": process.returncode,
            "processes_left": len(family.alive()),
            "files_left": len(list(temporary.iterdir())),
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[0], 1),
        }


def main() -> None:
    """Make the rows that are missing, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="of each kind")
    parser.add_argument("--seconds-after", type=float, default=1.0)
    options = parser.parse_args()
    kinds = [(phase, *each) for phase in PHASES for each in SIGNALS]
    for kind in kinds * options.times:
        rows = read_rows(ROWS)
        same = [r for r in rows if (r["phase"], r["signal"], r["reaches"]) == kind]
        if len(same) < options.times:
            phase, name, reaches = kind
            row = stopped(phase, name, reaches, options.seconds_after)
            write_rows(ROWS, [*rows, row])
            print(json.dumps(row), flush=True)
    for kind in kinds:
        seconds = [
            r["seconds"]
            for r in read_rows(ROWS)
            if (r["phase"], r["signal"], r["reaches"]) == kind
        ]
        print(*kind, statistics.median(seconds), "s, at most", max(seconds))


if __name__ == "__main__":
    main()
