"""A run's config: the models of its file, checked once when it is read.

Every name that the rest of takt needs is here, but for TOML: `run` holds the tables of
the file, `sections` what they have in common, `toml_file` reads and writes TOML.

Not here: edge.toml (edge.config), where config files lie (deploy.runtime.settings).
"""

from common.config.own_images import OwnImagesConfig
from common.config.run import (
    AttackConfig,
    CandidateConfig,
    ChoiceConfig,
    CutConfig,
    DatasetConfig,
    EvaluationConfig,
    GatewayConfig,
    KnowledgeConfig,
    NodeConfig,
    ProfileConfig,
    RunConfig,
    StudentConfig,
    TeacherConfig,
    ThreatConfig,
    TuningConfig,
    count_views,
)
from common.config.sections import (
    Address,
    FilePath,
    Name,
    Pixels,
    ProxyAddress,
    Section,
    Seed,
)

__all__ = [
    "Address",
    "AttackConfig",
    "CandidateConfig",
    "ChoiceConfig",
    "CutConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "FilePath",
    "GatewayConfig",
    "KnowledgeConfig",
    "Name",
    "NodeConfig",
    "OwnImagesConfig",
    "Pixels",
    "ProfileConfig",
    "ProxyAddress",
    "RunConfig",
    "Section",
    "Seed",
    "StudentConfig",
    "TeacherConfig",
    "ThreatConfig",
    "TuningConfig",
    "count_views",
]
