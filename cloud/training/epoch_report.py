"""What is said of an epoch of the teacher's training, and written to progress.jsonl.

Not here: the training (teacher.py).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """One epoch, as it is shown and compared."""

    epoch: int  # 1 for the first
    epochs: int
    loss: float
    clean_accuracy: float  # on the validation images
    robust_accuracy: float  # PGD with the training's attack, at full eps
    cpu_s: float  # of this rank, since the first epoch
    num_workers: int  # that trained this epoch together
