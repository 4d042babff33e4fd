"""A run's config: the models of its file, checked once when it is read.

Every name that the rest of takt needs is here; `run` holds the sections, `choice` the
candidates of a choice, `sections` their common ground, `toml_file` reads files.

Not here: edge.toml (edge.config), where config files lie (deploy.runtime.settings).
"""

from common.catalog import Content
from common.config.choice import CandidateConfig, ChoiceConfig
from common.config.run import (
    AttackConfig,
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
    count_views,
)
from common.config.sections import Name, Pixels, Section

__all__ = [
    "AttackConfig",
    "CandidateConfig",
    "ChoiceConfig",
    "Content",
    "CutConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "GatewayConfig",
    "KnowledgeConfig",
    "Name",
    "NodeConfig",
    "Pixels",
    "ProfileConfig",
    "RunConfig",
    "Section",
    "StudentConfig",
    "TeacherConfig",
    "ThreatConfig",
    "count_views",
]
