"""What a run has found so far: plain data, filled from phase to phase.

A run that fails half-way keeps all that it measured until then. Not here: what is made
of it, namely sentences (deploy/report/wording.py), the live view
(deploy/simulation/live_view.py) and the record (deploy/simulation/lifecycle.py).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.config import NodeConfig, RunConfig
from common.pb.takt_pb2 import ReportRequest
from common.release import Manifest, TeacherCard
from deploy.evaluation.measurement import Measurement
from deploy.report.details import Answer
from deploy.report.result import DatasetFacts, Failure
from deploy.simulation.node_images import DrawnByNode
from deploy.simulation.nodes import Nodes
from deploy.simulation.phases import Phases
from deploy.simulation.run_folder import RunFolder
from edge.jobs.job import DistilResult
from edge.jobs.runner import ChildUsage

ReferenceKind = Literal["own_only", "shipped", "natural"]


@dataclass
class FinishedNode:
    """What became of one node."""

    state: str
    message: str = ""
    report: ReportRequest | None = None
    student: Path | None = None  # relative to the run's folder
    measurement: Measurement | None = None
    details: str | None = None  # file for the page, relative to the run's folder


@dataclass
class FinishedBaseline:
    """What became of one baseline."""

    node: NodeConfig
    result: DistilResult
    usage: ChildUsage
    student: Path
    measurement: Measurement


@dataclass
class FinishedReference:
    """What became of one reference of a node's student."""

    node: NodeConfig
    kind: ReferenceKind
    student: Path | None  # None: its training failed
    result: DistilResult | None = None  # None: it was not trained
    measurement: Measurement | None = None
    message: str = ""
    details: str | None = None  # as of a node
    # Of a natural twin: what it says of its student's attacked images, by position.
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass
class RunState:
    """Everything that a run has found so far; None: not yet."""

    config: RunConfig
    run: RunFolder
    phases: Phases | None = None
    nodes: Nodes | None = None
    dataset: DatasetFacts | None = None
    drawn: DrawnByNode = field(default_factory=dict)  # of nodes that draw images
    teacher: TeacherCard | None = None
    teacher_measurement: Measurement | None = None
    manifest: Manifest | None = None
    finished: dict[str, FinishedNode] = field(default_factory=dict)
    references: list[FinishedReference] | None = None
    baselines: list[FinishedBaseline] | None = None
    failure: Failure | None = None

    @property
    def phase(self) -> str:
        """Name the phase under way, or the last one."""
        return self.phases.current if self.phases is not None else "start"

    def states(self) -> dict[str, str]:
        """List the state of each node that is done."""
        return {name: node.state for name, node in self.finished.items()}

    def measurements(self) -> list[Measurement]:
        """List every measurement that was begun."""
        # Copies, since the view asks from a thread of its own.
        found = [self.teacher_measurement]
        found += [node.measurement for node in list(self.finished.values())]
        found += [reference.measurement for reference in list(self.references or ())]
        found += [baseline.measurement for baseline in list(self.baselines or ())]
        # Of one function, in whatever files it lies, there is one measurement.
        return list({id(each): each for each in found if each is not None}.values())
