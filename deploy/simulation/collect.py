"""`takt cloud report`: the record of a run whose parts run elsewhere.

Follows a cloud job through its storage folder and the nodes through the fleet's
database, measures what they made, and ends as `takt simulate` does: with table,
result.json and report.html. It starts, stops and changes nothing of theirs. Not
here: the parts; taking in the nodes' reports (deploy/simulation/node_reports.py).
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.addresses import Addresses
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from cloud.training.job import as_trial
from cloud.training.teacher_files import finished_teacher
from common.config import RunConfig
from common.data.datasets import load_dataset
from common.errors import ClusterError
from common.release import Manifest, TeacherCard
from deploy.simulation.lifecycle import conduct_run
from deploy.simulation.live_view import open_view
from deploy.simulation.node_reports import STALL_S, harvest, train_baselines
from deploy.simulation.phases import Phases
from deploy.simulation.remote_nodes import RemoteNodes
from deploy.simulation.run_folder import RunFolder
from deploy.simulation.run_state import Findings
from deploy.simulation.simulate import open_pool

POLL_S = 0.5
Found = TypeVar("Found")


def collect_run(
    config: RunConfig,
    config_text: str,
    *,
    storage: Path,
    nodes_dir: Path,
    runs_dir: Path,
    compare: bool,
) -> int:
    """Wait for a run's parts, measure their results, and write the record.

    Args:
        config: of the run, as the cloud job has it.
        config_text: the same as TOML, for the run's folder.
        storage: the cloud job's folder.
        nodes_dir: has <node>/students of every node.
        runs_dir: where the run's folder is made.
        compare: train the PGD-AT baselines as well.

    Raises:
        TaktError: a part failed; result.json says the same.
    """

    def body(run: RunFolder, findings: Findings, console: Console) -> None:
        _collect(config, run, findings, console, nodes_dir, compare=compare)

    return conduct_run(config, config_text, body, runs_dir=runs_dir, storage=storage)


def _collect(
    config: RunConfig,
    run: RunFolder,
    findings: Findings,
    console: Console,
    nodes_dir: Path,
    *,
    compare: bool,
) -> None:
    """Do all phases; what is found goes into `findings` at once."""
    with ExitStack() as stack:
        view = stack.enter_context(open_view(console, findings.look))
        phases = Phases(view, time.monotonic)
        findings.phases = phases
        with phases.phase("gateway", "wait for the cloud side to start") as phase:
            # Which makes the fleet's database before it writes its addresses.
            addresses = _awaited(run, lambda: Addresses.load(run.cloud))
            phase.outcome = f"at {addresses.address}"
        fleet = stack.enter_context(closing(Fleet(sqlite_url(run.cloud.fleet))))
        nodes = RemoteNodes(config.nodes, fleet, nodes_dir)
        findings.nodes = nodes
        with phases.phase("data", f"read {config.dataset.name}") as phase:
            # Not before the cloud job did: where data has to be fetched, it does so.
            _awaited(run, lambda: run.cloud.training_has_begun() or None)
            dataset = load_dataset(config.dataset, seed=config.seed)
            findings.set_dataset(dataset)
            phase.outcome = f"{dataset.name}: {len(dataset.test):,} images to test"
        with phases.phase("teacher", "wait for the cloud job") as phase:
            card = _awaited(run, lambda: _teacher(config, run.cloud))
            findings.teacher = card
            phase.outcome = findings.describe_teacher()
        pool = stack.enter_context(open_pool(config, run, dataset))
        teacher = run.cloud.weights
        images = config.evaluation.teacher_images
        findings.measure_teacher(pool.submit(teacher, images))
        with phases.phase("publish", "wait for the release") as phase:
            findings.manifest = _awaited(run, lambda: _release(config, run, card))
            phase.outcome = findings.describe_release()
        with phases.phase("nodes", "pull, distil, evaluate, promote") as phase:
            harvest(config, run, findings, pool, nodes)
            phase.outcome = findings.describe_nodes()
        with phases.phase("evaluation", "AutoAttack on the test images") as phase:
            if compare:
                train_baselines(config, run, findings, pool)
            findings.collect()
            phase.outcome = findings.describe_evaluation()


def _teacher(config: RunConfig, storage: StorageDir) -> TeacherCard | None:
    """Find the run's teacher, or that of a trial, which the job alone knows of."""
    asked = [config] if config.dataset.limit is None else [config, as_trial(config)]
    cards = (finished_teacher(each, storage) for each in asked)
    return next(filter(None, cards), None)


def _release(config: RunConfig, run: RunFolder, card: TeacherCard) -> Manifest | None:
    """Find the channel's newest release, if it is this teacher's."""
    repository = ReleaseRepository(run.cloud.repository, run.cloud.keys)
    if config.channel not in repository.versions():
        return None
    manifest = repository.manifest(config.channel)
    return manifest if manifest.teacher == card else None


def _awaited(run: RunFolder, look: Callable[[], Found | None]) -> Found:
    """Look until there is something.

    Raises:
        ClusterError: nothing has changed in the storage for too long.
        TaktError: the cloud job failed, in its words.
    """
    last, since = 0.0, time.monotonic()
    while (found := look()) is None:
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
