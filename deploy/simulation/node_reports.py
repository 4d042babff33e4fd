"""Collecting what nodes make: their reports and their students.

A node is done when its report is in the fleet's database; its promoted student is
copied to the run's folder and measured there. Not here: what nodes do.
"""

import time
from collections.abc import Callable
from pathlib import Path

from common.config import NodeConfig
from common.pb.takt_pb2 import ReportRequest
from deploy.evaluation.pool import EvaluationPool
from deploy.report.wording import DELIVERED
from deploy.simulation.node_images import images_of_nodes, shift_of
from deploy.simulation.node_students import NoStudentError, take_student
from deploy.simulation.nodes import Nodes
from deploy.simulation.run_state import FinishedNode, RunState

POLL_S = 0.2
STALL_S = 900.0  # without any change at a node


def collect_reports(
    state: RunState,
    pool: EvaluationPool,
    nodes: Nodes,
    on_done: Callable[[NodeConfig], None],
) -> None:
    """Wait until every node has reported, ended or stalled.

    Args:
        state: takes what became of each node.
        pool: measures its student.
        nodes: of the run.
        on_done: called for each node, once `state` has it.

    Raises:
        StorageError: the database or a student cannot be read or copied.
    """
    from cloud.fleet.database import Fleet, sqlite_url

    assert state.manifest is not None
    channel, version = state.manifest.channel, state.manifest.version
    fleet = Fleet(sqlite_url(state.run.cloud.fleet))
    configs = {node.name: node for node in state.config.nodes}
    pending = [*configs]
    seen: dict[str, tuple[object, float]] = {}
    try:
        while pending:
            reports = {
                row.node: row.report
                for row in fleet.reports(version=version)
                if row.report.channel == channel
            }
            for name in list(pending):
                found = None
                if name in reports:
                    found = _finish(name, reports[name], state, pool, nodes)
                elif (ending := nodes.ended(name)) is not None:
                    found = FinishedNode("failed", ending)
                elif _stalled(name, nodes, seen):
                    found = FinishedNode(
                        "failed", f"nothing new for {STALL_S:.0f} s, given up"
                    )
                if found is not None:
                    state.finished[name] = found
                    pending.remove(name)
                    on_done(configs[name])
            time.sleep(POLL_S)
    finally:
        fleet.close()


def _finish(
    name: str,
    report: ReportRequest,
    state: RunState,
    pool: EvaluationPool,
    nodes: Nodes,
) -> FinishedNode:
    """Note a node's report; copy and measure the student that it promoted."""
    found = FinishedNode(report.outcome, report.message, report)
    if report.outcome != DELIVERED:
        return found
    student = Path("students") / f"{name}.safetensors"
    copy = state.run.path / student
    folder, version = nodes.state_dir(name), report.version
    try:
        take_student(folder, version, report.weights_sha256, copy)
    except NoStudentError as e:
        return FinishedNode("failed", str(e), report)
    found.student = student
    found.measurement = pool.submit(
        copy,
        state.config.evaluation.autoattack_images,
        shift=shift_of(images_of_nodes(state.config).get(name)),
        detailed=True,
    )
    return found


def _stalled(name: str, nodes: Nodes, seen: dict[str, tuple[object, float]]) -> bool:
    """Return whether a node's status has not changed for too long."""
    status = nodes.status(name)
    key = status.model_copy(update={"time": 0.0}) if status is not None else None
    now = time.monotonic()
    if name not in seen or seen[name][0] != key:
        seen[name] = (key, now)
    return now - seen[name][1] > STALL_S
