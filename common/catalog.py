"""The catalogue: which methods and architectures there are, and what each needs.

Owns the names and the facts that are decided before anything is trained: what a
method reads of a release, and which architectures serve as students. Every
architecture takes images of 8 pixels and more, grey or in colour. Free of torch, so
that a config is checked in full before stage 1 begins.

Not here: the code behind the names (common.models.zoo, edge.distill.methods; tests hold
their tables to this one), and what a student's recipe may change (common.config).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from common.errors import ConfigError
from common.text import did_you_mean

# What is extracted of a sample; a release that ships its images has these beside it.
Content = Literal["soft_labels", "deltas", "boundary_points"]
ImageContent = Literal["images", "val_images"]

# What `takt` reads where a release has it: without shipped deltas it begins at noise.
OPTIONAL: frozenset[Content] = frozenset({"deltas"})


@dataclass(frozen=True)
class MethodNeeds:
    """What a student's method reads while it trains."""

    contents: frozenset[Content] = frozenset()
    boundary_weighted: bool = False  # boundary points, if the recipe gives them weight
    live_teacher: bool = False  # it asks the gateway's teacher


_SOFT_LABELS = MethodNeeds(frozenset({"soft_labels"}))
_TAKT = MethodNeeds(frozenset({"soft_labels", "deltas"}), boundary_weighted=True)

METHODS: dict[str, MethodNeeds] = {
    "natural": MethodNeeds(),
    "pgd_at": MethodNeeds(),
    "trades": MethodNeeds(),
    "warm_at": MethodNeeds(),
    "n_fgsm": MethodNeeds(),
    "fgsm_pgi": MethodNeeds(),
    "kd": _SOFT_LABELS,
    "ard": _SOFT_LABELS,
    "rslad": _SOFT_LABELS,
    "absld": _SOFT_LABELS,
    "bss": MethodNeeds(frozenset({"soft_labels", "boundary_points"})),
    "adaad": MethodNeeds(live_teacher=True),
    "label_smoothing": _TAKT,
    "class_means": _TAKT,
    "takt": _TAKT,
}

# By what an image costs, the cheapest first.
STUDENT_ARCHITECTURES = (
    "cnn_tiny",
    "cnn_small",
    "cnn_medium",
    "cnn_large",
    "resnet8",
    "resnet20",
    "resnet14_s2",
    "mobilenet_v2",
    "resnet18",
)
# The last has 36 million parameters: a teacher, and no student.
ARCHITECTURES = (*STUDENT_ARCHITECTURES, "wrn_28_10")


def contents_for(method: str, boundary_weight: float) -> frozenset[Content]:
    """Say which contents a student's method reads; nothing else is pulled.

    A release need not have those in `OPTIONAL`.
    """
    needs = METHODS[method]
    if needs.boundary_weighted and boundary_weight > 0:
        return needs.contents | {"boundary_points"}
    return needs.contents


def reads_soft_labels(method: str) -> bool:
    """Say whether a student's method learns from the teacher's answers."""
    return "soft_labels" in METHODS[method].contents


def needs_live_teacher(method: str) -> bool:
    """Say whether a student's method asks the gateway's teacher while it trains."""
    return METHODS[method].live_teacher


def cost_rank(architecture: str) -> int:
    """Rank an architecture by what an image costs; unknown ones come last."""
    known = architecture in ARCHITECTURES
    return ARCHITECTURES.index(architecture) if known else len(ARCHITECTURES)


def check_name(kind: str, name: str, known: Collection[str]) -> str:
    """Return a name that is known.

    Raises:
        ConfigError: it is not; the message lists the known ones and the nearest.
    """
    if name in known:
        return name
    raise ConfigError(
        f"no {kind} is called '{name}'; expected one of {', '.join(known)}"
        f"{did_you_mean(name, known)}"
    )
