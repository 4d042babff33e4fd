"""From what was measured to the models of result.json.

Takes nodes at their word as it reached the fleet's database, and adds what the
simulation measured itself. Not here: the measuring, and writing the file.
"""

from collections.abc import Mapping
from pathlib import Path

from common.config import NodeConfig, RunConfig
from common.data.datasets import Dataset
from common.pb.takt_pb2 import CurvePoint as CurvePointMessage
from common.pb.takt_pb2 import ReportRequest
from common.release import Evaluation, Manifest, TeacherCard
from deploy.evaluation.pool import Figures
from deploy.report.result import (
    Cap,
    CpuSeconds,
    CurvePoint,
    DatasetFacts,
    NodeResult,
    Profile,
    ReleaseFacts,
    Student,
    TeacherResult,
    Threat,
)
from edge.jobs.job import DistilResult
from edge.jobs.runner import ChildUsage

VALIDATION = "validation_split"  # flag of what was not measured on the test split


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    """State which images a run used; the fingerprint is of the training split."""
    return DatasetFacts(
        name=dataset.name,
        fingerprint=dataset.train.fingerprint(),
        num_train=len(dataset.train),
        num_test=len(dataset.test),
    )


def threat_facts(config: RunConfig) -> Threat:
    """State the threat model."""
    return Threat(norm=config.threat.norm, eps=config.threat.eps)


def teacher_result(card: TeacherCard, figures: Figures | None) -> TeacherResult:
    """Join the teacher's card and AutoAttack's figures, both of the test split."""
    return TeacherResult(
        architecture=card.architecture,
        num_parameters=card.num_parameters,
        clean_accuracy=card.clean_accuracy,
        robust=(*(() if figures is None else (figures.robust,)), *card.robust),
    )


def release_facts(manifest: Manifest) -> ReleaseFacts:
    """State what a release costs, shard headers included."""
    return ReleaseFacts(
        channel=manifest.channel,
        version=manifest.version,
        bytes=sum(shard.num_bytes for shard in manifest.shards),
        num_samples=manifest.num_samples,
        bytes_per_sample={
            content: round(each, 3)
            for content, each in manifest.bytes_per_sample().items()
        },
    )


def node_result(
    node: NodeConfig,
    config: RunConfig,
    report: ReportRequest | None,
    *,
    student: Path | None,
    figures: Figures | None,
    state: str,
) -> NodeResult:
    """Describe a node.

    Args:
        node: its config.
        config: of the run, with its recipe.
        report: what it reported; None: it never did.
        student: its promoted student, relative to the run's folder.
        figures: of that student on the test split.
        state: the report's outcome, or what else became of the node.
    """
    plain = NodeResult(
        name=node.name,
        profile=_profile(node),
        method=config.students[node.student].method,
        seed=config.seed,
        state=state,
    )
    if report is None:
        return plain
    told: dict[str, object] = {
        "seed": report.seed,
        "cap": _cap(report.cap.method, report.cap.hard),
        "peak_memory_mib": report.peak_memory_mib or None,
        "pulled_bytes": report.pulled_bytes,
        "robust": _joined(figures, [_evaluation(e) for e in report.robust]),
        "curve": [_point(point) for point in report.curve],
    }
    if report.architecture:
        told["student"] = Student(
            architecture=report.architecture,
            num_parameters=report.num_parameters,
            path=None if student is None else str(student),
        )
    if report.HasField("cpu_s"):
        told["cpu_s"] = CpuSeconds(
            distil=report.cpu_s.distil,
            attack=report.cpu_s.attack,
            evaluate=report.cpu_s.evaluate,
        )
    if figures is not None:
        told["clean_accuracy"] = figures.clean_accuracy
    # Validated again: a node's numbers come from outside.
    return NodeResult.model_validate({**dict(plain), **told})


def baseline_result(
    node: NodeConfig,
    outcome: DistilResult,
    usage: ChildUsage,
    *,
    student: Path,
    figures: Figures | None,
) -> NodeResult:
    """Describe a baseline, trained in the place of a node's student."""
    return NodeResult(
        name=node.name,
        profile=_profile(node),
        cap=_cap(usage.cap.method, usage.cap.hard),
        student=Student(
            architecture=outcome.architecture,
            num_parameters=outcome.num_parameters,
            path=str(student),
        ),
        method=outcome.method,
        seed=outcome.seed,
        clean_accuracy=None if figures is None else figures.clean_accuracy,
        robust=_joined(figures, outcome.robust),
        cpu_s=CpuSeconds(**outcome.cpu_s.model_dump()),
        peak_memory_mib=usage.peak_memory_mib or None,
        state="trained",
        curve=tuple(
            CurvePoint(**point.model_dump(exclude={"epochs"}))
            for point in outcome.curve
        ),
    )


def _joined(
    figures: Figures | None, own: "tuple[Evaluation, ...] | list[Evaluation]"
) -> tuple[Evaluation, ...]:
    """Put AutoAttack on the test split before the validation figures."""
    test = () if figures is None else (figures.robust,)
    marked = (
        each.model_copy(update={"flags": (*each.flags, VALIDATION)}) for each in own
    )
    return (*test, *marked)


def _profile(node: NodeConfig) -> Profile:
    return Profile(**node.profile.model_dump(include=set(Profile.model_fields)))


def _cap(method: str, hard: bool) -> Cap | None:
    return Cap(method=method, hard=hard) if method else None


def _evaluation(message: object) -> Evaluation:
    return Evaluation.model_validate(message, from_attributes=True)


def _point(point: CurvePointMessage) -> Mapping[str, object]:
    found: dict[str, object] = {"epoch": point.epoch, "cpu_s": point.cpu_s}
    for name in ("clean_accuracy", "robust_accuracy"):
        if point.HasField(name):
            found[name] = getattr(point, name)
    return found
