"""`takt cloud report`: the record of a run whose parts run elsewhere.

Follows a cloud job through its storage folder and the nodes through the fleet's
database, measures what they made, and ends as `takt simulate` does: with table,
result.json and report.html. It starts, stops and changes none of those parts. Not
here: the parts; collecting the nodes' reports (deploy/simulation/node_reports.py).
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.addresses import Addresses
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from cloud.training.teacher_files import as_may_be_trained, finished_teacher
from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import ClusterError, DataError
from common.release import Manifest, TeacherCard
from common.text import counted
from deploy.report.builder import dataset_facts, release_facts
from deploy.report.result import DatasetFacts
from deploy.report.wording import (
    describe_evaluation,
    describe_nodes,
    describe_release,
    describe_teacher,
)
from deploy.runtime.progress import Display
from deploy.simulation.lifecycle import run_in_folder
from deploy.simulation.live_view import open_view, print_notes, take_snapshot
from deploy.simulation.node_images import (
    check_drawn_images,
    describe_shared_parts,
    describe_short_classes,
)
from deploy.simulation.node_reports import collect_reports
from deploy.simulation.nodes import RemoteNodes
from deploy.simulation.phases import Phases
from deploy.simulation.references import References
from deploy.simulation.run_folder import RunFolder
from deploy.simulation.run_state import RunState
from deploy.simulation.simulate import open_pool, wait_for_results

POLL_S = 0.5
STALL_S = 3600.0  # an epoch of a teacher on CPUs may take a quarter of it
Found = TypeVar("Found")


def collect_run(
    config: RunConfig,
    config_text: str,
    *,
    storage: Path,
    nodes_dir: Path,
    runs_dir: Path,
    compare: bool,
    quiet: bool = False,
) -> int:
    """Wait for a run's parts, measure their results, and write the record.

    Args:
        config: of the run, as the cloud job has it.
        config_text: the same as TOML, for the run's folder.
        storage: the cloud job's folder.
        nodes_dir: has <node>/students of every node.
        runs_dir: where the run's folder is made.
        compare: train the teacher-free baselines as well.
        quiet: show the result alone.

    Raises:
        TaktError: a part failed; result.json says the same.
    """

    def body(state: RunState, display: Display) -> None:
        _collect(state, display, nodes_dir, compare=compare)

    return run_in_folder(
        config, config_text, body, runs_dir=runs_dir, storage=storage, quiet=quiet
    )


def _collect(
    state: RunState, display: Display, nodes_dir: Path, *, compare: bool
) -> None:
    """Do all phases; results go into `state` at once."""
    config, run = state.config, state.run
    with ExitStack() as stack:
        view = stack.enter_context(open_view(display, lambda: take_snapshot(state)))
        phases = Phases(view, time.monotonic)
        state.phases = phases
        with phases.phase("gateway", f"wait for a job on {run.cloud.root}") as phase:
            # The gateway makes the fleet's database before it writes its addresses.
            addresses = _awaited(run, lambda: Addresses.load(run.cloud))
            phase.summary = f"at {addresses.address}"
        fleet = stack.enter_context(closing(Fleet(sqlite_url(run.cloud.fleet))))
        nodes = RemoteNodes(config.nodes, fleet, nodes_dir)
        state.nodes = nodes
        with phases.phase("data", f"read {config.dataset.name}") as phase:
            # Not before the cloud job did: it fetches the data where that is missing.
            _awaited(run, lambda: run.cloud.training_has_begun() or None)
            dataset = load_dataset(config.dataset, seed=config.seed)
            state.dataset = facts = _facts_of(dataset, state)
            found = counted(len(dataset.test), "image")
            phase.summary = f"{dataset.name}: {found} to test"
        print_notes(display, facts)
        with phases.phase("teacher", "wait for the cloud job") as phase:
            card = _awaited(run, lambda: _teacher(config, run.cloud))
            state.teacher = card
            phase.summary = describe_teacher(card)
        pool = stack.enter_context(open_pool(config, run, dataset))
        teacher = run.cloud.weights
        images = config.evaluation.teacher_images
        state.teacher_measurement = pool.submit(teacher, images)
        with phases.phase("publish", "wait for the release") as phase:
            manifest = _awaited(run, lambda: _release(config, run, card))
            state.manifest = manifest
            phase.summary = describe_release(release_facts(manifest))
        references = stack.enter_context(References(state, pool))
        with phases.phase("nodes", "pull, distil, evaluate, promote") as phase:
            collect_reports(state, pool, nodes, references.node_done)
            phase.summary = describe_nodes(state.states())
        with phases.phase("evaluation", "AutoAttack on the test images") as phase:
            references.finish(compare=compare)
            phase.summary = describe_evaluation(wait_for_results(state))


def _facts_of(dataset: Dataset, state: RunState) -> DatasetFacts:
    """State which images the run uses, and note how its nodes' are drawn of them."""
    with contextlib.suppress(DataError):  # a node that cannot have its images says so
        state.drawn = check_drawn_images(state.config)
    short = describe_short_classes(state.config, state.drawn)
    return dataset_facts(dataset, (*describe_shared_parts(state.config), *short))


def _teacher(config: RunConfig, storage: StorageDir) -> TeacherCard | None:
    """Find the run's teacher, or that of a trial, which the job alone knows of."""
    cards = (finished_teacher(each, storage) for each in as_may_be_trained(config))
    return next(filter(None, cards), None)


def _release(config: RunConfig, run: RunFolder, card: TeacherCard) -> Manifest | None:
    """Find the channel's newest release, if it is this teacher's."""
    repository = ReleaseRepository(run.cloud.repository, run.cloud.keys)
    if config.channel not in repository.versions():
        return None
    manifest = repository.manifest(config.channel)
    return manifest if manifest.teacher == card else None


def _awaited(run: RunFolder, find: Callable[[], Found | None]) -> Found:
    """Call `find` until there is something.

    Raises:
        ClusterError: nothing has changed in the storage for too long.
        TaktError: the cloud job failed; with its message.
    """
    last, since = 0.0, time.monotonic()
    while (found := find()) is None:
        run.cloud.raise_failure()
        newest = run.cloud.last_written()
        if newest != last:
            last, since = newest, time.monotonic()
        if time.monotonic() - since > STALL_S:
            raise ClusterError(
                f"the cloud job has written nothing to {run.cloud.root} for "
                f"{STALL_S:.0f} s; see its log"
            )
        time.sleep(POLL_S)
    return found
