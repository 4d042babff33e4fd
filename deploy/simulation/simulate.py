"""`takt simulate`: the whole system on one machine, and the record of it.

Every part is the real one: a local Ray, the Ray Train job, the gateway under Ray
Serve, and one daemon process a node. This module puts them in order, so that
cores are busy: nodes enrol while the teacher trains, then wait for the release;
AutoAttack uses the cores that the nodes leave idle. Whatever happens, everything that
was started is ended and result.json has the results. Not here: the parts.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from cloud.gateway.addresses import check_ports
from cloud.pki.authority import Authority
from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset
from common.effective_limits import usable_cores
from common.text import counted
from deploy import cloud_side
from deploy.evaluation.pool import EvaluationPool
from deploy.report.builder import dataset_facts, release_facts, with_notes
from deploy.report.result import Accuracies
from deploy.report.wording import (
    describe_evaluation,
    describe_nodes,
    describe_release,
    describe_teacher,
)
from deploy.runtime.background import Background
from deploy.runtime.progress import Display
from deploy.simulation.lifecycle import run_in_folder
from deploy.simulation.live_view import open_view, print_notes, take_snapshot
from deploy.simulation.node_images import (
    check_drawn_images,
    describe_shared_parts,
    describe_short_classes,
    images_of_nodes,
)
from deploy.simulation.node_reports import collect_reports
from deploy.simulation.nodes import NodeSite, SimulatedNodes
from deploy.simulation.phases import Phases
from deploy.simulation.references import References
from deploy.simulation.run_folder import RunFolder
from deploy.simulation.run_state import RunState

MOST_WORKERS = 8  # of the evaluation; each holds torch and a data set


def run_simulation(
    config: RunConfig,
    config_text: str,
    *,
    runs_dir: Path,
    compare: bool,
    quiet: bool = False,
) -> int:
    """Run the whole system; print the table; leave the run's folder.

    Args:
        config: of the run.
        config_text: the same as TOML, for the run's folder.
        runs_dir: where the run's folder is made.
        compare: train the teacher-free baselines as well.
        quiet: show the result alone.

    Raises:
        TaktError: a part failed; result.json says the same.
        KeyboardInterrupt: the run was stopped; result.json says so.
    """

    def body(state: RunState, display: Display) -> None:
        _simulate(state, display, compare=compare)

    return run_in_folder(config, config_text, body, runs_dir=runs_dir, quiet=quiet)


def _simulate(state: RunState, display: Display, *, compare: bool) -> None:
    """Do all phases; results go into `state` at once."""
    config, run = state.config, state.run
    with ExitStack() as stack:
        view = stack.enter_context(open_view(display, lambda: take_snapshot(state)))
        phases = Phases(view, time.monotonic)
        state.phases = phases
        with phases.phase("data", f"read {config.dataset.name}") as phase:
            dataset = load_dataset(config.dataset, seed=config.seed)
            state.dataset = facts = dataset_facts(
                dataset, describe_shared_parts(config)
            )
            images = counted(len(dataset.train), "image")
            phase.summary = (
                f"{dataset.name}: {images} to learn from, "
                f"{len(dataset.val):,} to validate, {len(dataset.test):,} to test"
            )
        state.drawn = check_drawn_images(config)  # rather than after the teacher
        short = describe_short_classes(config, state.drawn)
        state.dataset = facts = with_notes(facts, short)
        print_notes(display, facts)
        check_ports(config.gateway)  # rather than after the teacher's training
        # One thread for the run's whole length: its children end when it does.
        background = stack.enter_context(Background[str]("gateway"))
        nodes = SimulatedNodes(config.nodes, folder=run.nodes, logs=run.logs)
        state.nodes = stack.enter_context(nodes)
        cloud = stack.enter_context(ExitStack())
        with phases.phase("cluster", "start a local Ray") as phase:
            cluster = cloud_side.cluster(config, logs=run.logs / "ray")
            phase.summary = f"Ray at {cloud.enter_context(cluster)}"
        gateway = background.submit(lambda: _start_gateway(config, run, nodes))
        cloud.callback(cloud_side.end_gateway, gateway)
        pool = _train_and_publish(state, dataset, phases, stack)
        with phases.phase("gateway", "releases over mutual TLS") as phase:
            phase.summary = gateway.result()
        references = stack.enter_context(References(state, pool))
        with phases.phase("nodes", "pull, distil, evaluate, promote") as phase:
            collect_reports(state, pool, nodes, references.node_done)
            phase.summary = describe_nodes(state.states())
        with phases.phase("evaluation", "AutoAttack on the test images") as phase:
            nodes.stop()
            cloud.close()
            references.finish(compare=compare)
            phase.summary = describe_evaluation(wait_for_results(state))


def _start_gateway(config: RunConfig, run: RunFolder, nodes: SimulatedNodes) -> str:
    """Start the gateway, then the nodes, which wait for a release.

    Runs while the teacher trains: both wait for most of their start.
    """
    addresses = cloud_side.start_gateway(config, run.cloud)
    authority = Authority(run.cloud.pki)
    data_dir = config.dataset.data_dir
    site = NodeSite(
        gateway=addresses.address,
        enroll=addresses.enroll_address,
        ca=run.cloud.ca,
        data_dir=None if data_dir is None else data_dir.absolute(),
        seed=config.seed,
        own=images_of_nodes(config),
    )
    nodes.start(site, authority.allow)
    return f"at {addresses.address}"


def _train_and_publish(
    state: RunState, dataset: Dataset, phases: Phases, stack: ExitStack
) -> EvaluationPool:
    """Do stage 1; return the evaluation, which has begun with the teacher."""
    config, run = state.config, state.run
    with phases.phase("teacher", "adversarial training with Ray Train") as phase:
        state.teacher = cloud_side.train(config, run.cloud)
        phase.summary = describe_teacher(state.teacher)
    pool = stack.enter_context(open_pool(config, run, dataset))
    images = config.evaluation.teacher_images
    state.teacher_measurement = pool.submit(run.cloud.weights, images)
    with phases.phase("knowledge", "extract it with Ray actors") as phase:
        cloud_side.extract(config, run.cloud)
        phase.summary = ", ".join(config.knowledge.contents)
    if config.knowledge.weights:
        with phases.phase("weights", "distil starting weights with Ray") as phase:
            cloud_side.distil_weights(config, run.cloud)
            phase.summary = ", ".join(config.students)
    with phases.phase("publish", f"sign a release to '{config.channel}'") as phase:
        state.manifest = cloud_side.publish(config, run.cloud, dataset)
        phase.summary = describe_release(release_facts(state.manifest))
    return pool


def wait_for_results(state: RunState) -> list[Accuracies]:
    """Wait until all that was begun is measured, with what the page draws of it.

    Raises:
        TaktError: a measurement failed.
    """
    measurements = state.measurements()
    results = [each.result() for each in measurements]
    for each in measurements:
        each.details()  # the pool's end would cut it short
    return results


def open_pool(config: RunConfig, run: RunFolder, dataset: Dataset) -> EvaluationPool:
    """Prepare the evaluation of a run's models."""
    return EvaluationPool(
        dataset=config.dataset,
        seed=config.seed,
        num_test=len(dataset.test),
        eps=config.threat.eps,
        num_workers=min(usable_cores(), MOST_WORKERS),
        log=run.log("evaluation"),
    )
