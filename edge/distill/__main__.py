"""The child process: ``python -m edge.distill JOB.json``.

Not here: what a distillation does (run.py).
"""

import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from common.errors import Interrupted, TaktError
from edge.distill.run import distil
from edge.jobs.job import EXIT_OUT_OF_MEMORY, EXIT_TERMINATED, DistilJob, read_message


def main(argv: list[str]) -> int:
    """Run one job; the exit code says how it ended, stderr why, in one line."""
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    try:
        if len(argv) != 1:
            raise TaktError("usage: python -m edge.distill JOB.json")
        job = read_message(Path(argv[0]), DistilJob)
        torch.set_num_threads(job.threads)
        distil(job, should_stop=lambda: stopped)
    except Interrupted as e:
        print(e, file=sys.stderr)
        return EXIT_TERMINATED
    except TaktError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        print(f"out of memory while distilling: {reason}", file=sys.stderr)
        return EXIT_OUT_OF_MEMORY
    return 0


def out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed, in Python or in torch, from other errors."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    words = ("bad alloc", "not enough memory", "can't allocate", "out of memory")
    return any(word in text for word in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
