"""Hard caps on what a distillation may use.

`open_executor` takes the first method that works on this machine, and tests it; its
`Executor` runs one child at a time inside the caps. `probe_methods` tests each method.
`methods` says what is covered and what is not.

Not here: what this process may use at most (common/effective_limits.py), how fast a
node may pull (edge.link), which job runs under the caps (edge.jobs). Torch-free.
"""

from edge.limits.executor import Executor
from edge.limits.methods import (
    METHODS,
    MINIMUM_MIB,
    MethodReport,
    child_environment,
    num_threads,
    open_executor,
    probe_methods,
    require_memory,
)

__all__ = [
    "METHODS",
    "MINIMUM_MIB",
    "Executor",
    "MethodReport",
    "child_environment",
    "num_threads",
    "open_executor",
    "probe_methods",
    "require_memory",
]
