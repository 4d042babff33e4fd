"""How many cores a Ray worker computes on: its share of what Ray has of its machine.

Two Ray nodes may be containers on one host, where each would count all the host's
cores. What an operator gave a node (`ray start --num-cpus`) is the bound there, a
quota or an affinity another. Not here: limits outside Ray (common/effective_limits.py),
the slots of a local Ray (deploy/cloud_side.py).
"""

from typing import Any

from common.effective_limits import usable_cores


def cores_of_worker(num_here: int) -> int:
    """Count the cores for each of `num_here` equal workers on this Ray node.

    Called in a process that is connected to Ray.
    """
    return max(1, min(usable_cores(), _cpus_of_node()) // num_here)


def _cpus_of_node() -> int:
    """Count the CPU slots of the Ray node that this process runs on."""
    import ray

    cluster: Any = ray  # its state functions carry no annotations
    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in cluster.nodes() if node["NodeID"] == own)
    return int(node["Resources"].get("CPU", 0))
