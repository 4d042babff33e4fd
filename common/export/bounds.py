"""How much of its student's accuracy an exported file may lose.

Free of torch, since a command line is read before torch is loaded. Not here: measuring
it (gate.py).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The largest drops that are allowed, as fractions of the images."""

    clean: float = 0.005
    robust: float = 0.01


DEFAULT_BOUNDS = Bounds()
