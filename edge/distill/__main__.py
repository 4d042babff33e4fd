"""The child process: ``python -m edge.distill JOB.json``.

Not here: what a distillation does (run.py).
"""

import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from common.errors import TaktError
from edge.distill.exit_code import exit_code_of
from edge.distill.run import distil
from edge.jobs.job import DistilJob, read_message


def main(argv: list[str]) -> int:
    """Run one job; the exit code says how it ended, stderr why, in one line."""
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    def run() -> None:
        if len(argv) != 1:
            raise TaktError("usage: python -m edge.distill JOB.json")
        job = read_message(Path(argv[0]), DistilJob)
        torch.set_num_threads(job.threads)
        distil(job, should_stop=lambda: stopped)

    signal.signal(signal.SIGTERM, stop)
    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
