"""The table [choice] of a run: several teachers to try.

Not here: trying them (deploy/selection/teacher.py), the other tables (config.py).
"""

from typing import Literal

from pydantic import Field

from common.config.sections import Architecture, Name, Section


class CandidateConfig(Section):
    """A teacher to try; what is left out is as in [teacher] and [knowledge]."""

    model: Architecture | None = None
    objective: Literal["pgd_at", "trades", "mart"] | None = None
    beta: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=1)
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    awp_gamma: float | None = Field(default=None, ge=0)
    shift: int | None = Field(default=None, ge=0)
    flip: bool | None = None
    temperature: float | None = Field(default=None, gt=0)
    """of the soft labels"""


class ChoiceConfig(Section):
    """Teachers to try; the one whose student is best on validation images is taken."""

    student: Name
    """a key of [students], trained for its epochs"""
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """of that student"""
    candidates: dict[Name, CandidateConfig] = Field(min_length=2)
