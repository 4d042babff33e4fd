"""The node's torch-free process: watch, pull, distil in a child, promote, report.

`run_daemon` is all that callers need. Not here: the distillation (edge.distill) and its
child process (edge.jobs), verified files (edge.releases), calls (edge.link).
"""

from edge.daemon.node import NodeDaemon, run_daemon

__all__ = ["NodeDaemon", "run_daemon"]
