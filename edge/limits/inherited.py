"""Caps that a container or a service manager enforces already: read, not made.

Used when the limits of the groups above this process are at or below the
profile's. They apply to the daemon and its child together, which is stricter
than an own group. There is nothing to set and nothing to remove.
"""

from typing import ClassVar

from common.effective_limits import group_limits
from common.errors import CapError
from edge.limits.backend import Backend, Caps
from edge.limits.cgroup import oom_kills_above

# A profile of 500 MiB in a container of 512 MB (488 MiB) or 512 MiB is accepted.
TOLERANCE = 1.05


class Inherited(Backend):
    """Relies on the limits of the groups above this process."""

    method: ClassVar[str] = "inherited"

    def __init__(self, caps: Caps) -> None:
        """Check that the groups above enforce these caps.

        Raises:
            CapError: they do not.
        """
        limits = group_limits()
        memory_mib, cpus = limits.memory_mib, limits.cpus
        if memory_mib is None or memory_mib > caps.memory_mib * TOLERANCE:
            found = "no limit" if memory_mib is None else f"{memory_mib:.0f} MiB"
            raise CapError(
                f"the group above holds {found} of memory, the profile wants "
                f"{caps.memory_mib:.0f} MiB"
            )
        if cpus is None or cpus > caps.cpus * TOLERANCE:
            found = "no limit" if cpus is None else f"{cpus:g} cores"
            raise CapError(
                f"the group above holds {found} of CPU, the profile wants {caps.cpus:g}"
            )

    def oom_kills(self) -> int:
        """Count the kernel's kills for memory in the group above."""
        return oom_kills_above()
