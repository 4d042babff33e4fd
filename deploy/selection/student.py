"""`takt fit`: the largest student whose training fits a node's caps.

The students to try are the recipes of a config or of a release, and every other
architecture for students with the recipe of the largest of these. Each is trained for
a few steps inside the memory cap. Not here: the trial (edge/jobs/sizing.py). Neither
Ray nor torch is imported: this runs on a node.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.catalog import STUDENT_ARCHITECTURES, cost_rank
from common.config import (
    DatasetConfig,
    KnowledgeConfig,
    ProfileConfig,
    RunConfig,
    StudentConfig,
)
from common.errors import CapError, ConfigError, TrustError
from common.model_names import is_packaged
from common.release import MANIFEST, decode_manifest
from deploy.runtime.progress import Display
from deploy.runtime.settings import refuse_data_dir
from deploy.runtime.terminal import plain
from edge.jobs.sizing import Trial, try_out
from edge.limits import require_memory

_LEAST_CPUS, _MOST_CPUS = 0.01, 1024.0  # a hundredth of a core already takes minutes


@dataclass(frozen=True)
class Subject:
    """Recipes of students, and what they would be trained on."""

    recipes: Mapping[str, StudentConfig]
    dataset: DatasetConfig
    seed: int
    eps: float
    knowledge: KnowledgeConfig | None = None  # that stands in for a release's
    release_dir: Path | None = None


@dataclass(frozen=True)
class TriedStudent:
    """A student that was trained for a few steps."""

    name: str
    recipe: StudentConfig
    trial: Trial
    reason: str  # why it does not fit; empty where it does

    @property
    def num_parameters(self) -> int:
        """Count them; 0 where memory ran out before."""
        return self.trial.cost.num_parameters if self.trial.cost else 0


def caps_of(*, cpus: float, memory_mib: int, cpu_s: float) -> ProfileConfig:
    """Make a node's caps from the options of `takt fit`.

    Raises:
        ConfigError: no machine can have such a number of cores or CPU-seconds.
        CapError: nothing can be trained in so little memory.
    """
    if not (cpu_s > 0 and math.isfinite(cpu_s)):
        raise ConfigError(f"--cpu-s {cpu_s:g}: expected a number above 0, such as 60")
    if not _LEAST_CPUS <= cpus <= _MOST_CPUS:
        raise ConfigError(
            f"--cpus {cpus:g}: expected {_LEAST_CPUS:g} to {_MOST_CPUS:g} cores, such "
            "as 0.5"
        )
    require_memory(memory_mib, f"--memory-mib {memory_mib}")
    return ProfileConfig(cpus=cpus, memory_mib=memory_mib, bandwidth_kib_s=1)


def subject_of_config(config: RunConfig) -> Subject:
    """Take the students of a run's config."""
    recipes, eps = config.students, config.threat.eps
    return Subject(recipes, config.dataset, config.seed, eps, config.knowledge)


def subject_of_release(folder: Path, data_dir: Path | None) -> Subject:
    """Take the recipes of a pulled release.

    Raises:
        ConfigError: there is no release in the folder, or its images need no data_dir.
        TrustError: its manifest is malformed.
    """
    try:
        manifest = decode_manifest((folder / MANIFEST).read_bytes())
    except OSError as e:
        raise ConfigError(
            f"no release in {folder}: {e.strerror or e}; give a folder with the "
            f"{MANIFEST} and the shards of one"
        ) from e
    dataset = DatasetConfig(data_dir=data_dir)
    if manifest.dataset == dataset.name:
        refuse_data_dir(dataset)
    if not manifest.students:
        raise TrustError(f"the release in {folder} has no recipe; pull another")
    recipes, seed, eps = manifest.students, manifest.seed, manifest.eps
    return Subject(recipes, dataset, seed, eps, release_dir=folder)


def students_to_try(recipes: Mapping[str, StudentConfig]) -> dict[str, StudentConfig]:
    """Add the architectures that no recipe has, with the largest one's recipe.

    What a package's model costs is not known beforehand: its recipe is taken where
    there is no other, and it is tried last.
    """
    own = [each for each in recipes.values() if not is_packaged(each.model)]
    by_cost = own or list(recipes.values())
    largest = max(by_cost, key=lambda recipe: cost_rank(recipe.model))
    taken = {recipe.model for recipe in recipes.values()}
    others = [name for name in STUDENT_ARCHITECTURES if name not in taken]
    found = dict(recipes)
    found |= {name: largest.model_copy(update={"model": name}) for name in others}
    return dict(sorted(found.items(), key=lambda item: cost_rank(item[1].model)))


def try_students(
    subject: Subject,
    profile: ProfileConfig,
    cpu_s: float,
    update: Callable[[str, float], None],
) -> list[TriedStudent]:
    """Try every student, the smallest first.

    Args:
        subject: what would be trained.
        profile: of the node.
        cpu_s: that a training may take.
        update: called with the name of each, and the share of all that is done.

    Raises:
        CapError: the memory cap cannot be held, or is too small for any student.
        TaktError: images or release are missing or wrong.
    """
    found: list[TriedStudent] = []
    students = students_to_try(subject.recipes)
    for name, recipe in students.items():
        update(name, len(found) / len(students))
        trial = try_out(
            recipe,
            profile,
            release_dir=subject.release_dir,
            dataset=subject.dataset,
            seed=subject.seed,
            eps=subject.eps,
            knowledge=subject.knowledge,
            cpu_s=cpu_s,
        )
        reason = ""
        if trial.cost is None:
            reason = "over memory"
        elif trial.cost.cpu_s > cpu_s:
            reason = "over CPU-seconds"
        found.append(TriedStudent(name, recipe, trial, reason))
    return found


def largest_that_fits(tried: list[TriedStudent]) -> TriedStudent | None:
    """Return the student with the most parameters among those that fit."""
    fitting = [each for each in tried if not each.reason]
    return max(fitting, key=lambda c: c.num_parameters, default=None)


def select_student(
    subject: Subject,
    profile: ProfileConfig,
    *,
    cpu_s: float,
    as_json: bool,
    console: Console,
    display: Display,
) -> None:
    """Try out, print the table (or JSON) and the choice.

    Args:
        subject: what would be trained.
        profile: of the node.
        cpu_s: that a training may take.
        as_json: print a JSON object instead of the table.
        console: takes the table.
        display: shows how far the trials are.

    Raises:
        CapError: no student fits.
        TaktError: as `try_students`.
    """
    with display, display.step("fit", "train a few steps of each student") as step:

        def update(name: str, share: float) -> None:
            step.update(share, detail=f"trying out {name}")

        tried = try_students(subject, profile, cpu_s, update)
    chosen = largest_that_fits(tried)
    if as_json:
        print(json.dumps(_tree(tried, chosen, profile, cpu_s), indent=1))
    else:
        console.print(_table(tried))
    if chosen is None:
        raise _nothing_fits(tried[0], profile, cpu_s)
    caps = f"{profile.memory_mib} MiB and {cpu_s:g} CPU-s"
    if not as_json:
        assert chosen.trial.cost is not None
        console.print(
            f"choice: {chosen.name} ({chosen.recipe.model}, "
            f"{chosen.num_parameters:,} parameters), about "
            f"{chosen.trial.cost.cpu_s:.1f} CPU-s and "
            f"{chosen.trial.peak_memory_mib:.0f} MiB of {caps}",
            highlight=False,
            soft_wrap=True,
        )


def _nothing_fits(
    smallest: TriedStudent, profile: ProfileConfig, cpu_s: float
) -> CapError:
    """Say which of the caps leaves no place even for the smallest student."""
    cost = smallest.trial.cost
    if cost is None:
        return CapError(
            f"no student fits --memory-mib {profile.memory_mib}: the smallest, "
            f"{smallest.name}, ran out of it; raise it, or give the recipe a smaller "
            "batch_size"
        )
    at_least = "more than " if cost.is_bound else ""
    return CapError(
        f"no student fits --cpu-s {cpu_s:g}: the smallest, {smallest.name}, would take "
        f"{at_least}{cost.cpu_s:.1f} CPU-s (its memory fits); raise it, or give the "
        "recipe fewer epochs, of its tuning where starting weights are shipped"
    )


def _table(tried: list[TriedStudent]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("student", "model", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "MACs", "CPU-s/epoch", "epochs", "CPU-s", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for c in tried:
        cost = c.trial.cost
        at_least = "> " if cost and cost.is_bound else ""
        table.add_row(
            plain(c.name),
            plain(c.recipe.model),
            plain(c.recipe.method),
            f"{cost.num_parameters:,}" if cost else "-",
            f"{cost.num_macs:,}" if cost else "-",
            f"{at_least}{cost.cpu_s_per_epoch:.2f}" if cost else "-",
            str(c.recipe.epochs),
            f"{at_least}{cost.cpu_s:.1f}" if cost else "-",
            f"{at_least if cost else '> '}{c.trial.peak_memory_mib:.0f}",
            c.reason or "yes",
        )
    return table


def _tree(
    tried: list[TriedStudent],
    chosen: TriedStudent | None,
    profile: ProfileConfig,
    cpu_s: float,
) -> dict[str, object]:
    return {
        "memory_mib": profile.memory_mib,
        "cpu_s": cpu_s,
        "cap": {
            "method": tried[0].trial.cap_method,
            "hard": tried[0].trial.hard,
        },
        "candidates": [
            {
                "student": c.name,
                "model": c.recipe.model,
                "method": c.recipe.method,
                "epochs": c.recipe.epochs,
                "peak_memory_mib": c.trial.peak_memory_mib,
                **(c.trial.cost.model_dump() if c.trial.cost else {}),
                "fits": not c.reason,
                "reason": c.reason,
            }
            for c in tried
        ],
        "choice": chosen.name if chosen else None,
    }
