"""What a node may use: cores, memory, and a network that is slow and fails.

Apart from run.py, whose models a node does not need. Not here: holding to it
(edge.limits, edge.link).
"""

from pydantic import Field

from common.config.sections import Section


class CutConfig(Section):
    """An outage of a node's network, simulated by the node's own link."""

    after_s: float = Field(ge=0)
    """from the node's first call to its gateway"""
    for_s: float = Field(gt=0)


class ProfileConfig(Section):
    """The hard caps of one node, and its network."""

    cpus: float = Field(gt=0)
    """cores"""
    memory_mib: int = Field(ge=1)
    bandwidth_kib_s: int = Field(ge=1)
    delay_ms: int = Field(default=0, ge=0)
    """added to each call"""
    cuts: tuple[CutConfig, ...] = ()
    """outages of its network"""
