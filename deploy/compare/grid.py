"""What `takt compare` trains: a grid of methods, students and seeds, as a plan.

A grid (TOML, deploy/grids) names configs of runs and uses their students and schedules.
A method may change their attack and further keys of the recipe, and a data set may
give it a learning rate of its own. Where the grid names a file of tries, each method
has the settings that were its best on validation images (tuned.py). Each `Entry` of the
plan is one student to train, for the CPU-seconds that all methods get; of `shipped`,
the cloud's own student, which costs a node none. Not here: training it (training.py),
the rows (rows.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from common.catalog import METHODS
from common.config import AttackConfig, Name, RunConfig, Section, Seed, StudentConfig
from common.config.toml_file import parse_config
from common.errors import ConfigError
from common.regular_file import is_file
from common.release import check_contents, check_views
from deploy.compare.entry import NO_BUDGET, SHIPPED, Entry
from deploy.compare.tuned import Tries, Try, budget_name
from deploy.runtime.paths import expanded
from deploy.runtime.settings import load_run_config, read_shipped, shipped

# What `MethodGrid.recipe` may change; the rest makes rows incomparable or is elsewhere.
_OWN = frozenset(
    {"learning_rate", "momentum", "weight_decay", "schedule"}
    | {"eps_warmup_epochs", "ema_decay", "max_gradient_norm", "jacobian_weight"}
)


class MethodGrid(Section):
    """How an arm differs from the config's recipe; empty: in the method alone."""

    method: str | None = None  # of the arm; None: the arm is called like its method
    tuned: bool = True  # False: as given here, also where others have their best tries
    # Whether a node trains the cloud's student further, at the rate of the recipe's
    # `tuning` and without the warm-up of eps; else it begins with drawn weights.
    from_shipped: bool = False
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
    if not is_file(path):  # a shipped one names shipped configs
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
    return config if config in shipped("configs") and not is_file(path) else str(path)


def make_plan(grid: Grid, overrides: Mapping[str, object]) -> list[Entry]:
    """List the students to train: all of a seed before the next seed's.

    Args:
        grid: of methods, students and seeds.
        overrides: on top of each config, by dotted key.

    Raises:
        ConfigError: the grid names a method, student or config that is not there.
    """
    plan: list[Entry] = []
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
        _check_names(part.learning_rate, {*METHODS, *grid.methods}, "methods")
        for rates in part.learning_rate.values():
            _check_names(rates, part.cpu_budget_s, f"students of {part.config} here")
        for arm, changes in grid.methods.items():
            _check_arm(arm, changes)
        entries = [
            entry
            for student in part.cpu_budget_s
            for arm, changes in grid.methods.items()
            for entry in _entries(config, part, student, arm, grid, overrides_here)
        ]
        tuned = grid.tuned is not None
        plan += [entry.of(seed=s, tuned=tuned) for s in part.seeds for entry in entries]
    return plan


def with_best_tries(plan: Sequence[Entry], grid: Grid) -> list[Entry]:
    """Give the entries of a tuned grid the best settings of their methods.

    Apart from the plan, so that what is not chosen of it need not have been tried.

    Args:
        plan: of `make_plan`, or some of it.
        grid: the same.

    Raises:
        ConfigError: there are no tries, or not as many as for other methods.
    """
    if grid.tuned is None:
        return [*plan]
    tries = Tries(Path(grid.tuned))

    def best(entry: Entry) -> Entry:
        if entry.method == SHIPPED or not grid.methods[entry.method].tuned:
            return entry
        found = tries.best(
            entry.method,
            channel=entry.config.channel,
            student=entry.student,
            budget=entry.budget,
            cpu_budget_s=entry.cpu_budget_s,
        )
        recipe = _tuned(entry.recipe, found)
        check_views(recipe, entry.config.knowledge)
        return replace(entry, recipe=recipe)

    return [best(entry) for entry in plan]


def _check_arm(arm: str, changes: MethodGrid) -> None:
    """Check that an arm is called like its method, or like none.

    Raises:
        ConfigError: it is not, the method is unknown, or what is shipped is to begin
            with itself.
    """
    if arm == SHIPPED and changes.from_shipped:
        raise ConfigError(
            f"methods.{SHIPPED}.from_shipped: the shipped student cannot begin with "
            "itself; leave the key out"
        )
    if changes.method is None:
        _check_names([arm], {*METHODS, SHIPPED}, "methods")
        return
    _check_names([changes.method], METHODS, "methods")
    if arm in {*METHODS, SHIPPED} - {changes.method}:
        raise ConfigError(
            f"methods.{arm}: an arm of method {changes.method} cannot be called {arm}, "
            "which is another; give it a name of its own"
        )


def _entries(
    config: RunConfig,
    part: DatasetGrid,
    student: str,
    arm: str,
    grid: Grid,
    overrides: Mapping[str, object],
) -> list[Entry]:
    """List what an arm trains of a student: one a share of the budget."""
    changes = grid.methods[arm]
    first = Entry(
        config=config,
        name=student,
        method=arm,
        seed=part.seeds[0],
        recipe=config.students[student],
        temperature=changes.temperature or config.knowledge.temperature,
        cpu_budget_s=0.0,
        budget=NO_BUDGET,
        num_images=part.num_images,
        tuned=False,
    )
    if arm == SHIPPED or changes.from_shipped:
        views = grid.methods.get(SHIPPED, MethodGrid()).num_views
        views = views or first.recipe.num_views
        own = first.recipe.model_copy(update={"num_views": views})
        check_views(own, config.knowledge)
        shipped_entry = replace(first, method=SHIPPED, recipe=own)
        if arm == SHIPPED:
            return [shipped_entry]
        first = replace(first, start=shipped_entry)
    recipe = _recipe(config, part, student, arm, changes, overrides)
    check_contents(recipe, config.knowledge)
    check_views(recipe, config.knowledge)
    return [
        replace(
            first,
            recipe=recipe,
            cpu_budget_s=round(share * part.cpu_budget_s[student], 3),
            budget=budget_name(share),
        )
        for share in changes.shares
    ]


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
    arm: str,
    changes: MethodGrid,
    overrides: Mapping[str, object],
) -> StudentConfig:
    """Apply an arm's changes to the config's recipe of a student."""
    _check_names(changes.recipe, _OWN, f"keys of a recipe that {arm} may change")
    if changes.recipe:
        own = {f"students.{student}.{key}": v for key, v in changes.recipe.items()}
        typed = {
            f"students.{student}.{key}": f"methods.{arm}.recipe.{key} = {v}"
            for key, v in changes.recipe.items()
        }
        config, _ = load_run_config(part.config, {**overrides, **own}, typed=typed)
    base, eps = config.students[student], config.threat.eps
    rates = part.learning_rate.get(arm, {})
    attack = base.attack
    if changes.steps is not None:
        attack = AttackConfig(steps=changes.steps, step_size=changes.step * eps)
    return base.model_copy(
        update={
            "method": changes.method or arm,
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
