"""What a running simulation has found so far, and how to show and record it.

Filled from phase to phase, so that a run that fails half-way still writes down
all that it measured. Not here: measuring, and the order of things.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from common.config import NodeConfig, RunConfig
from common.data.datasets import Dataset
from common.errors import StudentError, TaktError
from common.pb.takt_pb2 import ReportRequest
from common.release import Manifest, TeacherCard
from deploy.evaluation.pool import Figures, Measurement
from deploy.report.builder import (
    baseline_result,
    dataset_facts,
    node_result,
    release_facts,
    teacher_result,
    threat_facts,
)
from deploy.report.result import DatasetFacts, Failure, NodeResult, RunResult
from deploy.report.table import human_bytes
from deploy.report.wording import DELIVERED, make_verdict, percent
from deploy.runtime.machine import describe_machine, takt_version
from deploy.simulation.live_view import Snapshot
from deploy.simulation.nodes import Nodes
from deploy.simulation.phases import Phases
from deploy.simulation.run_folder import RunFolder
from edge.jobs.job import DistilResult
from edge.jobs.runner import ChildUsage


@dataclass
class NodeFinding:
    """What became of one node."""

    state: str
    message: str = ""
    report: ReportRequest | None = None
    student: Path | None = None  # relative to the run's folder
    measurement: Measurement | None = None


@dataclass
class BaselineFinding:
    """What became of one baseline."""

    node: NodeConfig
    outcome: DistilResult
    usage: ChildUsage
    student: Path
    measurement: Measurement


@dataclass
class Findings:
    """Everything that a run has found so far."""

    config: RunConfig
    run: RunFolder
    phases: Phases | None = None
    nodes: Nodes | None = None
    dataset: DatasetFacts | None = None
    teacher: TeacherCard | None = None
    manifest: Manifest | None = None
    node_findings: dict[str, NodeFinding] = field(default_factory=dict)
    baselines: list[BaselineFinding] | None = None
    failure: Failure | None = None
    _teacher_measurement: Measurement | None = None
    _num_val: int = 0

    @property
    def phase(self) -> str:
        """Name the phase under way, or the last one."""
        return self.phases.current if self.phases is not None else "start"

    def set_dataset(self, dataset: Dataset) -> None:
        """Note which images are used."""
        self.dataset = dataset_facts(dataset)
        self._num_val = len(dataset.val)

    def measure_teacher(self, measurement: Measurement) -> None:
        """Note that the teacher is being measured."""
        self._teacher_measurement = measurement

    def collect(self) -> None:
        """Wait for every measurement.

        Raises:
            TaktError: one of them failed.
        """
        for measurement in self._measurements():
            measurement.result()

    def shortcoming(self) -> TaktError | None:
        """Say which nodes are without a student although the run went well."""
        missing = [
            f"{name} {found.state}{f' ({found.message})' if found.message else ''}"
            for name, found in self.node_findings.items()
            if found.state != DELIVERED
        ]
        if not missing:
            return None
        error = StudentError(
            f"{len(missing)} of {len(self.node_findings)} nodes promoted no student: "
            f"{'; '.join(missing)}; see {self.run.logs}"
        )
        self.failure = Failure(code=error.exit_code, message=str(error))
        return error

    def look(self) -> Snapshot:
        """Describe the moment for the live view."""
        nodes = self.nodes.views() if self.nodes is not None else ()
        measurements = self._measurements()
        beside = ""
        if measurements:
            done = sum(m.progress for m in measurements) / len(measurements)
            beside = f"AutoAttack of {len(measurements)} models: {100 * done:.0f} %"
        detail = self._last_progress() if self.phase in PROGRESS_PHASES else ""
        return Snapshot(detail=detail, nodes=nodes, beside=beside)

    def result(self) -> RunResult:
        """Put together what there is."""
        nodes = tuple(self._node_result(node) for node in self.config.nodes)
        teacher = None
        if self.teacher is not None:
            teacher = teacher_result(self.teacher, _figures(self._teacher_measurement))
        baselines = None
        if self.baselines is not None:
            baselines = tuple(_baseline_result(found) for found in self.baselines)
        if self.failure is None or self.node_findings:
            verdict = make_verdict(nodes, teacher, baselines)
        else:
            verdict = f"The run ended in phase '{self.phase}': {self.failure.message}"
        return RunResult(
            run_id=self.run.run_id,
            takt_version=takt_version(),
            status="ok" if self.failure is None else "failed",
            verdict=verdict,
            error=self.failure,
            dataset=self.dataset,
            threat=threat_facts(self.config),
            teacher=teacher,
            release=None if self.manifest is None else release_facts(self.manifest),
            nodes=nodes,
            baselines=baselines,
            timings_s=self.phases.timings() if self.phases is not None else {},
            machine=describe_machine(),
        )

    def describe_teacher(self) -> str:
        """Say in a line what came of stage 1."""
        if self.teacher is None:
            return ""
        robust = self.teacher.robust[0] if self.teacher.robust else None
        told = (
            f"{self.teacher.architecture}, {self.teacher.num_parameters:,} parameters"
        )
        told += f", clean {percent(self.teacher.clean_accuracy)} %"
        if robust is not None:
            told += (
                f", {robust.attack.upper()} {percent(robust.accuracy)} % "
                f"({robust.norm}, eps {robust.eps:.4g}, {robust.num_images} "
                "images)"
            )
        return told

    def describe_release(self) -> str:
        """Say in a line what was published."""
        if self.manifest is None:
            return ""
        facts = release_facts(self.manifest)
        return (
            f"{facts.channel} v{facts.version}: {human_bytes(facts.bytes)} for "
            f"{facts.num_samples:,} samples"
        )

    def describe_nodes(self) -> str:
        """Say in a line what became of the nodes."""
        return ", ".join(f"{n} {f.state}" for n, f in self.node_findings.items())

    def describe_evaluation(self) -> str:
        """Say in a line what was measured."""
        images = sum(m.result().robust.num_images for m in self._measurements())
        return f"{len(self._measurements())} models, {images} attacked images in all"

    def _node_result(self, node: NodeConfig) -> NodeResult:
        found = self.node_findings.get(node.name)
        if found is None:
            status = self.nodes.status(node.name) if self.nodes is not None else None
            found = NodeFinding("not started" if status is None else status.state)
        return node_result(
            node,
            self.config,
            found.report,
            student=found.student,
            figures=_figures(found.measurement),
            state=found.state,
        )

    def _measurements(self) -> list[Measurement]:
        found = [self._teacher_measurement]
        found += [node.measurement for node in self.node_findings.values()]
        found += [baseline.measurement for baseline in self.baselines or ()]
        return [measurement for measurement in found if measurement is not None]

    def _last_progress(self) -> str:
        """Read what stage 1 says of itself."""
        try:
            lines = self.run.cloud.progress.read_bytes().splitlines()
            last = json.loads(lines[-1])
        except (OSError, ValueError, IndexError):
            return ""
        if not isinstance(last, dict) or "epoch" not in last:
            return ""
        epochs, wanted = last.get("epochs", "?"), self.config.teacher.epochs
        told = f"epoch {last['epoch']}/{epochs}"
        if isinstance(epochs, int) and epochs < wanted:  # cloud.training.job.placed
            told += f" (a trial on CPUs; a GPU would train {wanted})"
        if isinstance(last.get("clean_accuracy"), float):
            told += f", clean {percent(last['clean_accuracy'])} %"
        if isinstance(last.get("robust_accuracy"), float):
            threat = self.config.threat
            told += (
                f", PGD {percent(last['robust_accuracy'])} % ({threat.norm}, eps "
                f"{threat.eps:.4g}, {self._num_val} validation images)"
            )
        return told


PROGRESS_PHASES = ("teacher",)


def _figures(measurement: Measurement | None) -> Figures | None:
    """Take the figures of a measurement that is done and went well."""
    if measurement is None or not measurement.done():
        return None
    try:
        return measurement.result(timeout=0)
    except TaktError:
        return None


def _baseline_result(found: BaselineFinding) -> NodeResult:
    figures = _figures(found.measurement)
    return baseline_result(
        found.node,
        found.outcome,
        found.usage,
        student=found.student,
        figures=figures,
    )
