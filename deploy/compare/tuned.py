"""The best settings of each method: found on validation images, by as many tries each.

A file of tries, ``{"rows": [...]}``, one trained student a row (tests/bench/tune.py
makes it). A grid that names it takes the best try of each method, student and budget.
Not here: training them, and what a grid asks for (grid.py).
"""

import json
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import ConfigError, one_line

_BUDGETS = {1.0: "whole", 0.2: "fifth", 0.1: "tenth"}


def budget_name(share: float) -> str:
    """Name a share of a student's CPU budget: whole, fifth, tenth; 3 is `3x`."""
    return _BUDGETS.get(share, f"{share:g}x")


class Try(BaseModel):
    """One setting of a method, and how robust its student was on validation images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str
    channel: str  # of the config
    student: str  # architecture
    method: str
    budget: str  # see `budget_name`
    cpu_budget_s: float
    seed: int
    number: int = Field(ge=0)  # of the try, from 0 on
    tries: int  # of each method, that were to be made
    attack_steps: int
    step_size: float  # pixel scale
    learning_rate: float
    num_views: int
    val_clean_accuracy: float
    val_robust_accuracy: float
    attack: str  # of that accuracy
    num_images: int  # to validate on
    cpu_s: float  # of training


class Tries:
    """The tries of a file."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read, or holds something else.
        """
        self._path = path
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            self._tries = [Try.model_validate(row) for row in tree["rows"]]
        except OSError as e:
            raise ConfigError(f"cannot read the tries in {path}: {e.strerror}") from e
        except (ValueError, KeyError, TypeError, ValidationError) as e:
            raise ConfigError(
                f"{path} does not hold tries of tests/bench/tune.py "
                f"({one_line(e, 160)}); name another file as the grid's `tuned`"
            ) from e

    def best(
        self,
        method: str,
        *,
        channel: str,
        student: str,
        budget: str,
        cpu_budget_s: float,
    ) -> Try:
        """Return the most robust try; of equal ones the first.

        Args:
            method: of the student.
            channel: of the config.
            student: its architecture.
            budget: name of its share of the CPU budget.
            cpu_budget_s: that share, CPU-seconds.

        Raises:
            ConfigError: there is none, not as many as other methods had there or as
                were to be made, or they had other CPU-seconds.
        """
        place = (channel, student, budget)
        there = [t for t in self._tries if (t.channel, t.student, t.budget) == place]
        counts = Counter(t.method for t in there)
        wanted = max((t.tries for t in there), default=0)
        if counts[method] < max(wanted, 1) or len({*counts.values()}) > 1:
            found = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
            raise ConfigError(
                f"{self._path}: expected {wanted or 'some'} tries of {method} and of "
                f"every other method for {student} of {channel}, budget {budget}; "
                f"found {found or 'none'}; make them with tests/bench/tune.py"
            )
        own = [t for t in there if t.method == method]
        if {t.cpu_budget_s for t in own} != {cpu_budget_s}:
            raise ConfigError(
                f"{self._path}: {method}, {student} of {channel}, was tried for other "
                f"than {cpu_budget_s:g} CPU-seconds, which the grid gives budget "
                f"{budget}; make tries for these with tests/bench/tune.py"
            )
        return max(own, key=lambda t: (t.val_robust_accuracy, -t.number))
