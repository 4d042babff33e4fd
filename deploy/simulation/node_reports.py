"""Taking in what the nodes bring: reports, students, and baselines beside them.

A node is done when its report is in the fleet's database; its promoted student is
copied to the run's folder and measured there. Not here: what nodes do.
"""

import shutil
import time
from pathlib import Path

from common.config import NodeConfig, RunConfig
from common.errors import StorageError
from common.pb.takt_pb2 import ReportRequest
from deploy.evaluation.pool import EvaluationPool
from deploy.report.wording import DELIVERED
from deploy.simulation.nodes import Nodes
from deploy.simulation.run_folder import RunFolder
from deploy.simulation.run_state import BaselineFinding, Findings, NodeFinding

POLL_S = 0.2
STALL_S = 900.0  # without any change at a node


def harvest(
    config: RunConfig,
    run: RunFolder,
    findings: Findings,
    pool: EvaluationPool,
    nodes: Nodes,
) -> None:
    """Wait until every node has reported, ended or stalled.

    Raises:
        StorageError: the database or a student cannot be read or copied.
    """
    from cloud.fleet.database import Fleet, sqlite_url

    assert findings.manifest is not None
    channel, version = findings.manifest.channel, findings.manifest.version
    fleet = Fleet(sqlite_url(run.cloud.fleet))
    pending = {node.name: node for node in config.nodes}
    seen: dict[str, tuple[object, float]] = {}
    try:
        while pending:
            reports = {
                row.node: row.report
                for row in fleet.reports(version=version)
                if row.report.channel == channel
            }
            for name, node in list(pending.items()):
                found = None
                if name in reports:
                    found = _take_in(node, reports[name], config, run, pool, nodes)
                elif (ending := nodes.ended(name)) is not None:
                    found = NodeFinding("failed", ending)
                elif _stalled(name, nodes, seen):
                    found = NodeFinding(
                        "failed", f"nothing new for {STALL_S:.0f} s, given up"
                    )
                if found is not None:
                    findings.node_findings[name] = found
                    del pending[name]
            time.sleep(POLL_S)
    finally:
        fleet.close()


def train_baselines(
    config: RunConfig, run: RunFolder, findings: Findings, pool: EvaluationPool
) -> None:
    """Train PGD-AT in the place of each promoted student, and measure it.

    Raises:
        TaktError: a baseline could not be trained.
    """
    from deploy.simulation.baselines import Baselines

    assert findings.manifest is not None
    findings.baselines = []
    data_dir = config.dataset.data_dir
    with Baselines(
        run.baselines,
        findings.manifest,
        data_dir=None if data_dir is None else data_dir.absolute(),
        seed=config.seed,
        num_workers=len(config.nodes),
    ) as baselines:
        started = []
        for node in config.nodes:
            found = findings.node_findings[node.name]
            if found.state == DELIVERED and found.report is not None:
                budget_s = found.report.cpu_s.distil
                started.append((node, baselines.submit(node, budget_s)))
        for node, future in started:
            trained = future.result()
            student = Path("students") / f"{node.name}-pgd_at.safetensors"
            _copy(trained.student, run.path / student)
            images = config.evaluation.autoattack_images
            findings.baselines.append(
                BaselineFinding(
                    node,
                    trained.outcome,
                    trained.usage,
                    student,
                    pool.submit(run.path / student, images),
                )
            )


def _take_in(
    node: NodeConfig,
    report: ReportRequest,
    config: RunConfig,
    run: RunFolder,
    pool: EvaluationPool,
    nodes: Nodes,
) -> NodeFinding:
    """Take a node's report and, where it promoted one, its student."""
    from edge.state import current_student

    found = NodeFinding(report.outcome, report.message, report)
    if report.outcome != DELIVERED:
        return found
    folder = nodes.state_dir(node.name)
    source = current_student(folder)
    if source is None:
        words = f"it reports a promoted student, but {folder} has none"
        return NodeFinding("failed", words, report)
    found.student = Path("students") / f"{node.name}.safetensors"
    _copy(source, run.path / found.student)
    found.measurement = pool.submit(
        run.path / found.student, config.evaluation.autoattack_images
    )
    return found


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as e:
        raise StorageError(f"cannot copy {source} to {target}: {e.strerror}") from e


def _stalled(name: str, nodes: Nodes, seen: dict[str, tuple[object, float]]) -> bool:
    """Say whether a node's status has not changed for too long."""
    status = nodes.status(name)
    key = status.model_copy(update={"time": 0.0}) if status is not None else None
    now = time.monotonic()
    if name not in seen or seen[name][0] != key:
        seen[name] = (key, now)
    return now - seen[name][1] > STALL_S
