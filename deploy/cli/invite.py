"""Inviting a run's nodes: one folder for each, with all that it needs to join.

    <folder>/<node>/edge.toml  ca.crt  token

To invite a node is to give it a one-time token; the other files are public. The token
is used up when the node enrols. The node makes its private key itself and keeps it. A
node that has enrolled, or was revoked, is not invited again. Not here: the rules
(cloud/pki/allowlist.py), the enrolment itself (edge/daemon/enrolment.py).
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cloud.pki.authority import Authority
from common.config import NodeConfig, RunConfig
from common.durable import make_folder, write_atomic
from common.errors import ConfigError
from common.explain import explain
from deploy.simulation.node_images import images_of_nodes
from edge.config import EdgeConfig, save_edge_config

TOKEN, CA, CONFIG = "token", "ca.crt", "edge.toml"


def invite_nodes(
    config: RunConfig, authority: Authority, folder: Path, **common: Any
) -> list[str]:
    """Write each node's folder; return the names of those that were invited.

    Args:
        config: of the run; its nodes and their profiles.
        authority: of the project; must be there.
        folder: takes one folder a node.
        common: further keys of every edge.toml: gateway, enroll, ca, state_dir.

    Raises:
        ConfigError: an address is malformed.
        StorageError: a folder cannot be written.
    """
    entries = authority.allow_list.entries()
    invited = []
    for node in config.nodes:
        place = folder / node.name
        make_folder(place)
        write_atomic(place / CA, authority.ca_pem())
        save_edge_config(_edge_config(config, node, common), place / CONFIG)
        entry = entries.get(node.name)
        if entry is not None and entry.state != "invited":
            continue  # of a revoked one `takt pki allow` decides
        token = authority.allow(node.name)
        write_atomic(place / TOKEN, f"{token}\n".encode(), mode=0o600)
        invited.append(node.name)
    return invited


def _edge_config(
    config: RunConfig, node: NodeConfig, common: dict[str, Any]
) -> EdgeConfig:
    try:
        return EdgeConfig(
            node=node.name,
            student=node.student,
            profile=node.profile,
            data_dir=config.dataset.data_dir,
            data=images_of_nodes(config).get(node.name),
            max_forgetting=node.max_forgetting,
            seed=config.seed,
            **common,
        )
    except ValidationError as e:
        raise ConfigError(f"{explain(e, EdgeConfig).text}, as nodes reach it") from e
