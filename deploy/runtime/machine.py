"""What this machine is: cores, GPU, versions; nothing heavy is imported.

Not here: whether takt works on it (deploy/doctor.py) and caps (edge.limits).
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_GPUS = Path("/proc/driver/nvidia/gpus")


def num_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def takt_version() -> str:
    """Name the version of takt that is installed."""
    return package_version("takt") or "unknown"


def package_version(package: str) -> str | None:
    """Name the version of an installed package; None: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def gpu_name() -> str | None:
    """Read the first GPU's name from NVIDIA's driver, if it is loaded."""
    for information in sorted(_GPUS.glob("*/information")):
        for line in information.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return None
