"""What this machine is, for the record of a run; nothing heavy is imported.

Not here: whether takt works on it (deploy/doctor.py) and caps (edge.limits).
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from deploy.report.result import Machine

_GPUS = Path("/proc/driver/nvidia/gpus")


def describe_machine() -> Machine:
    """List cores that may be used, memory, GPU and the versions of the big parts."""
    return Machine(
        cores=num_cores(),
        memory_mib=psutil.virtual_memory().total // 2**20,
        gpu=_gpu(),
        python=platform.python_version(),
        torch=_version("torch"),
        ray=_version("ray"),
    )


def num_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def takt_version() -> str:
    """Name the version of takt that is installed."""
    return _version("takt") or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> str | None:
    """Read the first GPU's name from NVIDIA's driver, if it is loaded."""
    for information in sorted(_GPUS.glob("*/information")):
        for line in information.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return None
