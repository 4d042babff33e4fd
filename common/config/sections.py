"""What the tables of a config file have in common, and the values that several hold.

Not here: the tables themselves, and reading them (config.py).
"""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Content = Literal["soft_labels", "deltas", "adv_labels", "boundary_points", "margins"]


def _fraction(value: object) -> object:
    """Turn ``"8/255"`` into a float; leave everything else to pydantic."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            return value
    return value


Pixels = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(gt=0, le=1, json_schema_extra={"unit": "pixel scale"}),
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Section(BaseModel):
    """One table of the config file: frozen, strict, and no unknown keys.

    The docstring under a field is its description, which the documentation prints.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
