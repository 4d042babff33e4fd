"""What `takt compare` trains: a grid of methods, students and seeds, as a plan.

A grid (TOML, deploy/grids) names configs of runs and uses their students and schedules.
A method may change their attack and further keys of the recipe, and a data set may
give it a learning rate of its own. Where the grid names a file of tries, each method
has the settings that were its best on validation images (tuned.py). Each `Entry` of the
plan is one student to train, for the CPU-seconds that all methods get; of `shipped`,
the cloud's own student, which costs a node none. Not here: training it (worker.py), the
rows (rows.py).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from cloud.training.teacher_files import teacher_digest
from common.catalog import METHODS, contents_for, needs_live_teacher
from common.config import AttackConfig, Name, RunConfig, Section, Seed, StudentConfig
from common.config.toml_file import parse_config
from common.errors import ConfigError
from common.release import check_contents, check_views
from deploy.compare.tuned import Tries, Try, budget_name
from deploy.runtime.paths import expanded
from deploy.runtime.settings import load_run_config, read_shipped, shipped

# An arm beside the methods: the recipe's student as the cloud distils and ships it.
SHIPPED = "shipped"
NO_BUDGET = "none"  # the name of its budget

# What `MethodGrid.recipe` may change; the rest makes rows incomparable or is elsewhere.
_OWN = frozenset(
    {"learning_rate", "momentum", "weight_decay", "schedule"}
    | {"eps_warmup_epochs", "ema_decay", "max_gradient_norm"}
)


class MethodGrid(Section):
    """How a method differs from the config's recipe; empty: in the method alone."""

    steps: int | None = Field(default=None, ge=1)  # of the attack
    step: float = Field(default=0.25, gt=0, le=1)  # of the attack, in units of eps
    temperature: float | None = Field(default=None, gt=0)  # of the soft labels
    num_views: int | None = Field(default=None, ge=1)  # None: as the config's recipe
    shares: tuple[float, ...] = (1.0,)  # of the CPU budget: a student for each
    # Keys of [students] with values of the method's own, as ema_decay = 0.0.
    recipe: dict[str, int | float | str] = Field(default={})


class DatasetGrid(Section):
    """One data set: its students, with their budgets, and its seeds."""

    config: str  # of a run: a shipped name, or a path from the grid's folder
    num_images: int = Field(ge=1)  # test images under AutoAttack
    seeds: tuple[Seed, ...] = Field(min_length=1)
    cpu_budget_s: dict[Name, float] = Field(min_length=1)  # by the config's students
    # Dotted keys of the config with values of the grid's own.
    changes: dict[str, bool | int | float | str] = Field(default={})
    # By method, then student; where there is none, the config's.
    learning_rate: dict[str, dict[Name, float]] = Field(default={})


class Grid(Section):
    """The whole grid."""

    # A file of tries: steps, step size, learning rate and views of each method are
    # those of its best one. A path from the grid's folder; None: as given here.
    tuned: str | None = None
    methods: dict[str, MethodGrid] = Field(min_length=1)
    datasets: tuple[DatasetGrid, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Entry:
    """One student to train and measure."""

    config: RunConfig
    name: str  # of the student in its config
    method: str  # or SHIPPED
    seed: int
    recipe: StudentConfig
    temperature: float
    cpu_budget_s: float
    budget: str  # its name, see `budget_name`
    num_images: int
    tuned: bool  # whether the recipe is the best of as many tries as all methods had

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


def which_grid(name: str | None, *, full: bool) -> str:
    """Return the name of the grid that the options choose.

    Raises:
        ConfigError: they contradict each other.
    """
    if name is not None and full:
        raise ConfigError("--full and --grid: expected one of them, not both")
    return name or ("full" if full else "quick")


def load_grid(name: str) -> Grid:
    """Read a grid: a shipped one's name ("quick", "full") or a path.

    Paths of configs in a file count from its folder.

    Raises:
        ConfigError: there is no such file, or a key or value is wrong.
    """
    source, text = read_shipped(name, "grids")
    grid = parse_config(text, Grid, source=source)
    path = expanded(Path(name))
    if not path.is_file():  # a shipped one names shipped configs
        return grid
    folder = path.absolute().parent
    located = tuple(
        part.model_copy(update={"config": _located(part.config, folder)})
        for part in grid.datasets
    )
    tuned = None if grid.tuned is None else str(folder / expanded(Path(grid.tuned)))
    return grid.model_copy(update={"datasets": located, "tuned": tuned})


def _located(config: str, folder: Path) -> str:
    """Find a config that a grid's file names: beside that file, or a shipped one."""
    path = folder / expanded(Path(config))
    return config if config in shipped("configs") and not path.is_file() else str(path)


def make_plan(grid: Grid, overrides: Mapping[str, object]) -> list[Entry]:
    """List the students to train: all of a seed before the next seed's.

    Args:
        grid: of methods, students and seeds.
        overrides: on top of each config, by dotted key.

    Raises:
        ConfigError: the grid names a method, student or config that is not there.
    """
    plan: list[Entry] = []
    tries = None if grid.tuned is None else Tries(Path(grid.tuned))
    for part in grid.datasets:
        overrides_here = {**part.changes, **overrides}
        config, _ = load_run_config(part.config, overrides_here)
        if config.knowledge.images != "same":
            raise ConfigError(
                f"config {part.config} ships its images to the nodes, but methods are "
                "compared on the cloud's own; name a config whose knowledge.images is "
                "'same', such as digits-same"
            )
        _check_names(part.cpu_budget_s, config.students, f"students of {part.config}")
        _check_names(part.learning_rate, METHODS, "methods")
        for rates in part.learning_rate.values():
            _check_names(rates, part.cpu_budget_s, f"students of {part.config} here")
        _check_names(grid.methods, {*METHODS, SHIPPED}, "methods")
        entries = [
            entry
            for student in part.cpu_budget_s
            for method, changes in grid.methods.items()
            for entry in _entries(
                config, part, student, method, changes, overrides_here, tries
            )
        ]
        plan += [replace(entry, seed=s) for s in part.seeds for entry in entries]
    return plan


def _entries(
    config: RunConfig,
    part: DatasetGrid,
    student: str,
    method: str,
    changes: MethodGrid,
    overrides: Mapping[str, object],
    tries: Tries | None,
) -> list[Entry]:
    """List what a method trains of a student: one a share of the budget."""
    first = Entry(
        config=config,
        name=student,
        method=method,
        seed=part.seeds[0],
        recipe=config.students[student],
        temperature=changes.temperature or config.knowledge.temperature,
        cpu_budget_s=0.0,
        budget=NO_BUDGET,
        num_images=part.num_images,
        tuned=tries is not None,
    )
    if method == SHIPPED:
        views = changes.num_views or first.recipe.num_views
        shipped_recipe = first.recipe.model_copy(update={"num_views": views})
        check_views(shipped_recipe, config.knowledge)
        return [replace(first, recipe=shipped_recipe)]
    recipe = _recipe(config, part, student, method, changes, overrides)
    found = []
    for share in changes.shares:
        budget, own = budget_name(share), recipe
        if tries is not None:
            best = tries.best(
                method, channel=config.channel, student=recipe.model, budget=budget
            )
            own = _tuned(recipe, best)
        check_contents(own, config.knowledge)
        check_views(own, config.knowledge)
        seconds = round(share * part.cpu_budget_s[student], 3)
        found.append(replace(first, recipe=own, cpu_budget_s=seconds, budget=budget))
    return found


def _tuned(recipe: StudentConfig, best: Try) -> StudentConfig:
    attack = AttackConfig(steps=best.attack_steps, step_size=best.step_size)
    return recipe.model_copy(
        update={
            "attack": attack,
            "learning_rate": best.learning_rate,
            "num_views": best.num_views,
        }
    )


def chosen(
    plan: Sequence[Entry],
    *,
    datasets: Collection[str] = (),
    students: Collection[str] = (),
    methods: Collection[str] = (),
) -> list[Entry]:
    """Select what the options name; an empty option selects all.

    A student goes by its name in the config or by its architecture, as in the rows.

    Raises:
        ConfigError: an option names what the plan does not have.
    """
    _check_names(datasets, {e.config.dataset.name for e in plan}, "data sets here")
    both = {e.student for e in plan} | {e.name for e in plan}
    _check_names(students, both, "students here")
    _check_names(methods, {e.method for e in plan}, "methods here")
    return [
        e
        for e in plan
        if (not datasets or e.config.dataset.name in datasets)
        and (not students or e.student in students or e.name in students)
        and (not methods or e.method in methods)
    ]


def _recipe(
    config: RunConfig,
    part: DatasetGrid,
    student: str,
    method: str,
    changes: MethodGrid,
    overrides: Mapping[str, object],
) -> StudentConfig:
    """Apply a method's changes to the config's recipe of a student."""
    _check_names(changes.recipe, _OWN, f"keys of a recipe that {method} may change")
    if changes.recipe:
        own = {f"students.{student}.{key}": v for key, v in changes.recipe.items()}
        typed = {
            f"students.{student}.{key}": f"methods.{method}.recipe.{key} = {v}"
            for key, v in changes.recipe.items()
        }
        config, _ = load_run_config(part.config, {**overrides, **own}, typed=typed)
    base, eps = config.students[student], config.threat.eps
    rates = part.learning_rate.get(method, {})
    attack = base.attack
    if changes.steps is not None:
        attack = AttackConfig(steps=changes.steps, step_size=changes.step * eps)
    return base.model_copy(
        update={
            "method": method,
            "attack": attack,
            "learning_rate": rates.get(student, base.learning_rate),
            "num_views": changes.num_views or base.num_views,
        }
    )


def _check_names(given: Collection[str], known: Collection[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"'{name}' is not among the {what}: {', '.join(sorted(known))}"
            )
