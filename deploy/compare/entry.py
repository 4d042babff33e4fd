"""One student that `takt compare` trains, and the digest of all that decides its row.

Not here: which students there are (grid.py), training one (training.py).
"""

import hashlib
import json
from dataclasses import dataclass, replace

from cloud.training.teacher_files import teacher_digest
from common.catalog import contents_for, needs_live_teacher
from common.config import RunConfig, StudentConfig

# An arm beside the methods: the recipe's student as the cloud distils and ships it.
SHIPPED = "shipped"
NO_BUDGET = "none"  # the name of its budget


@dataclass(frozen=True)
class Entry:
    """One student to train and measure."""

    config: RunConfig
    name: str  # of the student in its config
    method: str  # or the name of its arm, or SHIPPED
    seed: int
    recipe: StudentConfig
    temperature: float
    cpu_budget_s: float
    budget: str  # its name, see `budget_name`
    num_images: int
    tuned: bool  # whether methods of its grid have their best of as many tries
    start: "Entry | None" = None  # of the shipped student that it begins with

    def of(self, *, seed: int, tuned: bool) -> "Entry":
        """Return the same student of a seed."""
        start = self.start and self.start.of(seed=seed, tuned=tuned)
        return replace(self, seed=seed, tuned=tuned, start=start)

    @property
    def student(self) -> str:
        """Name the student's architecture, as rows do."""
        return self.recipe.model

    @property
    def digest(self) -> str:
        """Digest all that decides the row, except where the data lies."""
        parts: dict[str, object] = {
            "dataset": self.config.dataset.model_dump(
                mode="json", exclude={"data_dir"}
            ),
            "split_seed": self.config.seed,
            "threat": self.config.threat.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "cpu_budget_s": self.cpu_budget_s,
            "num_images": self.num_images,
            "test_images": "stratified",
            "tuned": self.tuned,
        }
        own = self.config.knowledge
        if self.recipe.num_views > 1:
            parts["views"] = [own.shift, own.flip]
        if needs_live_teacher(self.recipe.method):
            parts |= {
                "teacher": teacher_digest(self.config),
                "temperature": self.temperature,
            }
        reads = contents_for(self.recipe.method, self.recipe.boundary_weight)
        if reads:
            unread = {"num_actors", "contents", "temperature"}
            unread |= {"num_views", "shift", "flip"}
            knowledge = own.model_dump(mode="json", exclude=unread)
            parts |= {
                "teacher": teacher_digest(self.config),
                "knowledge": knowledge,
                "temperature": self.temperature,
            }
            if left_out := reads - {*own.contents}:
                parts["without"] = sorted(left_out)
        if self.start is not None:
            parts["start"] = self.start.digest
        if self.method == SHIPPED and self.config.teacher.images != "same":
            parts["trained_on"] = "the teacher's images"
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def group(self) -> str:
        """Name what it is compared with: data set, student and seed."""
        return f"{self.config.dataset.name} {self.student} seed {self.seed}"

    def __str__(self) -> str:
        """Name it for people."""
        name, budget = self.config.dataset.name, f"{self.cpu_budget_s:g} CPU-s"
        return f"{name} {self.student} {self.method} seed {self.seed}, {budget}"
