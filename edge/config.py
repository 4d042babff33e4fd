"""edge.toml: a node's name, its gateway, and what it may use.

Owns the keys of that file. Relative paths in it count from its own folder, so
that a node's folder can be moved. It reads no certificate and opens no channel.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from common.config import (
    Address,
    FilePath,
    Name,
    OwnImagesConfig,
    ProfileConfig,
    ProxyAddress,
    Section,
    Seed,
)
from common.config.toml_file import load_config, to_toml
from common.durable import write_atomic
from common.export.card import Format
from common.logs import LogFormat

Seconds = Annotated[float, Field(gt=0, le=1_000_000)]


class EdgeConfig(Section):
    """One edge node."""

    node: Name
    """must be the subject (CN) of its certificate"""
    student: Name
    """a recipe of the release"""
    gateway: Address
    """host:port; the host must be in the gateway's certificate"""
    enroll: Address | None = None
    """host:port, needed for `takt edge enroll` only"""
    proxy: ProxyAddress | None = None
    """HTTP proxy to the gateway; None: that of https_proxy; no_proxy holds for both"""
    ca: FilePath | None = None
    """project CA (PEM), needed for enrolment only"""
    channel: Name | None = None
    """None: the one the enrolment named"""
    state_dir: FilePath = Path()
    """certificates, cache, students, status.json"""
    data_dir: FilePath | None = None
    """the node's images; None: embedded or none needed"""
    data: OwnImagesConfig | None = None
    """images of its own; None: it has none, or the cloud's (data_dir)"""
    max_forgetting: float = Field(default=0.02, ge=0, le=1)
    """robust accuracy on the release's images that a new student may lose"""
    export: tuple[Format, ...] = ()
    """ONNX files to make of a promoted student: onnx, onnx-int8"""
    profile: ProfileConfig
    cap_method: str | None = None
    """None: the first that works here"""
    seed: Seed = 0
    cpu_budget_s: float | None = Field(default=None, gt=0)
    """None: the recipe's epochs"""
    deadline_s: Seconds = 600.0
    """how long to try without a gateway before giving up"""
    stall_s: Seconds = 30.0
    """a silent stream is cut and resumed"""
    heartbeat_s: Seconds = 5.0
    poll_s: Seconds = 600.0
    """how often it checks for releases by itself"""
    log_format: LogFormat = "text"
    """of stderr; the others are for programs"""


def load_edge_config(path: Path) -> EdgeConfig:
    """Read edge.toml; relative paths in it are resolved against its folder.

    Raises:
        ConfigError: the file is missing, or a key or value in it is wrong.
    """
    config = load_config(path, EdgeConfig)
    # Its default is the folder itself, and defaults are not validated.
    state_dir = path.resolve().parent / config.state_dir
    return config.model_copy(update={"state_dir": state_dir})


def save_edge_config(config: EdgeConfig, path: Path) -> None:
    """Write edge.toml, durably; `load_edge_config` reads it back.

    Raises:
        StorageError: the file cannot be written.
    """
    tree = json.loads(config.model_dump_json(exclude_none=True, exclude_defaults=True))
    write_atomic(path, to_toml(tree).encode())
