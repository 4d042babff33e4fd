"""A run's config: the models of its file, checked once when it is read.

Every name that the rest of takt needs is here, but for TOML: `run` holds the tables of
the file, `profile` and `own_images` those that edge.toml has as well, `sections` what
they have in common, `toml_file` reads and writes TOML. `run` is loaded when a name of
it is used first: building its models takes longer than what some verbs do.

Not here: edge.toml (edge.config), where config files lie (deploy.runtime.settings).
"""

from typing import TYPE_CHECKING

from common.config.own_images import OwnImagesConfig
from common.config.profile import CutConfig, ProfileConfig
from common.config.sections import (
    Address,
    FilePath,
    Name,
    Pixels,
    ProxyAddress,
    Section,
    Seed,
)

if TYPE_CHECKING:
    from common.config.run import (
        DATA_DIR_MISSING,
        AttackConfig,
        CandidateConfig,
        ChoiceConfig,
        DatasetConfig,
        EvaluationConfig,
        GatewayConfig,
        KnowledgeConfig,
        NodeConfig,
        RunConfig,
        StudentConfig,
        TeacherConfig,
        ThreatConfig,
        TuningConfig,
        count_views,
    )

__all__ = [
    "DATA_DIR_MISSING",
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


def __getattr__(name: str) -> object:
    """Load a name of `run`, when it is used first."""
    if name in __all__:
        from common.config import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
