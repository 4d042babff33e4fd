"""A gateway with a live teacher for one training of `takt compare`, in a process.

``python -m deploy.compare.live_gateway`` reads a `GatewayJob` from stdin, serves the
teacher as any gateway does (mutual TLS, on loopback), enrols one node and writes how to
reach it, a `LiveLink`, to stdout; it ends when its stdin does. A process of its own, so
that the CPU-seconds of a training are the node's alone and the teacher's are measured
apart. Not here: the node's calls (edge/distill/teacher/live_teacher.py).
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from common.config import ProfileConfig
from common.errors import TaktError
from deploy.runtime.processes import (
    close_pipes,
    end_tree,
    exchange,
    start_worker,
)
from edge.jobs.job import LiveLink

NODE = "compare"
LIVE_PREFIX = "takt-live-"  # of folders beside the log, one a gateway
_GRACE_S = 5.0


class GatewayJob(BaseModel):
    """What to serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: Path  # safetensors file
    folder: Path  # empty; takes the gateway's storage and the node's identity


@contextmanager
def live_gateway(
    teacher: Path, log: Path
) -> Iterator[tuple[LiveLink, Callable[[], float]]]:
    """Serve a teacher for the body.

    Args:
        teacher: its safetensors file.
        log: takes the process's stderr.

    Yields:
        How a node reaches it, and the CPU-seconds that its process has used since.

    Raises:
        TaktError: the process ended before it served.
    """
    with tempfile.TemporaryDirectory(prefix=LIVE_PREFIX, dir=log.parent) as folder:
        process = start_worker("deploy.compare.live_gateway", log)
        try:
            job = GatewayJob(teacher=teacher.resolve(), folder=Path(folder))
            line = exchange(process, job.model_dump_json())
            if not line:
                raise TaktError(f"the live teacher's gateway did not start; see {log}")
            before_s = _cpu_s(process.pid)
            link = LiveLink.model_validate_json(line)
            yield link, lambda: _cpu_s(process.pid) - before_s
        finally:
            close_pipes(process)
            end_tree(process, grace_s=_GRACE_S)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Serve until stdin ends."""
    import torch

    from cloud.gateway.live_teacher import FileTeacher, in_threads
    from cloud.gateway.server import GatewayThread
    from cloud.storage import StorageDir
    from edge.config import EdgeConfig
    from edge.daemon.enrolment import enroll
    from edge.state import StateDir

    torch.set_num_threads(1)
    job = GatewayJob.model_validate_json(sys.stdin.readline())
    storage = StorageDir(job.folder / "cloud")
    storage.create()
    teacher = in_threads(FileTeacher(job.teacher))
    with GatewayThread(storage=storage, teacher=teacher) as gateway:
        node = EdgeConfig(
            node=NODE,
            student="any",
            gateway=gateway.address,
            enroll=gateway.enroll_address,
            ca=storage.ca,
            state_dir=job.folder / "node",
            profile=ProfileConfig(cpus=1, memory_mib=1, bandwidth_kib_s=1),  # unused
        )
        state = StateDir(node.state_dir)
        state.create()
        enroll(node, gateway.running.authority.allow(NODE))
        link = LiveLink(
            gateway=gateway.address,
            identity_dir=state.identity,
            profile=None,
            deadline_s=node.deadline_s,
            stall_s=node.stall_s,
        )
        print(link.model_dump_json(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
