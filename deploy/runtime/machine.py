"""What this machine is: GPU, versions; nothing heavy is imported.

Not here: its cores and memory (common/effective_limits.py), whether takt works on it
(deploy/doctor.py) and caps (edge.limits).
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

_GPUS = Path("/proc/driver/nvidia/gpus")


def takt_version() -> str:
    """Name the version of takt that is installed."""
    return package_version("takt") or "unknown"


def versions() -> str:
    """Name takt's version and those of what its figures depend on, as one line."""
    packages = [(name, package_version(name)) for name in ("torch", "ray")]
    found = [f"{name} {number}" for name, number in packages if number]
    return (
        f"takt {takt_version()} ({', '.join([f'Python {python_version()}', *found])})"
    )


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
