"""Hard caps on what a distillation may use.

`open_cage` takes the first method that works on this machine and proves it;
`probe_methods` says of each whether it would; `methods` has the whole promise: what is
covered, what is not.

Not here: how fast a node may pull (edge.link), which job runs under the caps
(edge.jobs). Torch-free.
"""

from edge.limits.executor import Cage
from edge.limits.machine import effective_limits
from edge.limits.methods import (
    METHODS,
    MINIMUM_MIB,
    MethodReport,
    child_environment,
    num_threads,
    open_cage,
    probe_methods,
)

__all__ = [
    "METHODS",
    "MINIMUM_MIB",
    "Cage",
    "MethodReport",
    "child_environment",
    "effective_limits",
    "num_threads",
    "open_cage",
    "probe_methods",
]
