"""From what a run found to the models of result.json.

A node's own values are those that reached the fleet's database; accuracies on the test
split were measured by the run. Not here: the measuring, and writing the file.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.config import NodeConfig, RunConfig
from common.data.datasets import Dataset
from common.effective_limits import effective_limits, usable_cores
from common.pb.takt_pb2 import ReportRequest
from common.records import Cap, CpuSeconds, CurvePoint, Evaluation, Profile, from_wire
from common.release import Manifest, TeacherCard
from deploy.report.result import (
    VALIDATION,
    Accuracies,
    DatasetFacts,
    Failure,
    Machine,
    NodeResult,
    NotMeasured,
    OwnImages,
    Reference,
    ReleaseFacts,
    RunResult,
    Student,
    TeacherResult,
    Threat,
)
from deploy.runtime.machine import gpu_name, package_version, takt_version
from edge.jobs.job import DistilResult
from edge.jobs.runner import ChildUsage


def build_result(
    config: RunConfig,
    *,
    run_id: str,
    verdict: str,
    dataset: DatasetFacts | None,
    teacher: TeacherResult | None,
    manifest: Manifest | None,
    nodes: tuple[NodeResult, ...],
    baselines: tuple[NodeResult, ...] | None,
    failure: Failure | None,
    timings_s: Mapping[str, float],
) -> RunResult:
    """Put together what a run found; None: it did not get that far.

    Args:
        config: of the run.
        run_id: the name of its folder.
        verdict: what came of it, in one sentence.
        dataset: which images it used.
        teacher: as measured so far.
        manifest: of the release.
        nodes: one for each configured node.
        baselines: None: not asked for.
        failure: why the run failed; None: it did not.
        timings_s: of each phase.
    """
    return RunResult(
        run_id=run_id,
        takt_version=takt_version(),
        status="ok" if failure is None else "failed",
        verdict=verdict,
        error=failure,
        dataset=dataset,
        threat=Threat(norm=config.threat.norm, eps=config.threat.eps),
        teacher=teacher,
        release=None if manifest is None else release_facts(manifest),
        nodes=nodes,
        baselines=baselines,
        timings_s=dict(timings_s),
        machine=machine_facts(),
    )


def machine_facts() -> Machine:
    """List cores and memory that may be used, GPU and the versions of the big parts."""
    return Machine(
        cores=usable_cores(),
        memory_mib=int(effective_limits().memory_mib),
        gpu=gpu_name(),
        python=platform.python_version(),
        torch=package_version("torch"),
        ray=package_version("ray"),
    )


def dataset_facts(dataset: Dataset, notes: Sequence[str] = ()) -> DatasetFacts:
    """State which images a run used; the fingerprint is of the training split.

    Args:
        dataset: that was loaded.
        notes: what a user should know beside the data set's own notes, one line each.
    """
    return DatasetFacts(
        name=dataset.name,
        fingerprint=dataset.train.fingerprint(),
        num_train=len(dataset.train),
        num_test=len(dataset.test),
        notes=(*dataset.notes, *notes) or None,
        absent_classes=dataset.absent_classes or None,
    )


def with_notes(facts: DatasetFacts, notes: Sequence[str]) -> DatasetFacts:
    """Add what a user should know of a run's images, one line each."""
    return facts.model_copy(update={"notes": (*(facts.notes or ()), *notes) or None})


def teacher_result(card: TeacherCard, accuracies: Accuracies | None) -> TeacherResult:
    """Join the teacher's card and AutoAttack's result, both of the test split."""
    return TeacherResult(
        architecture=card.architecture,
        num_parameters=card.num_parameters,
        clean_accuracy=card.clean_accuracy,
        robust=(*(() if accuracies is None else (accuracies.robust,)), *card.robust),
        trial=card.trial or None,
    )


def release_facts(manifest: Manifest) -> ReleaseFacts:
    """State what a release costs, shard headers included."""
    return ReleaseFacts(
        channel=manifest.channel,
        version=manifest.version,
        bytes=manifest.num_bytes,
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
    accuracies: Accuracies | None,
    state: str,
    data: OwnImages | None = None,
    references: tuple[Reference, ...] | None = None,
    details: str | None = None,
) -> NodeResult:
    """Describe a node.

    Args:
        node: its config.
        config: of the run, with its recipe.
        report: what it reported; None: it never did.
        student: its promoted student, relative to the run's folder.
        accuracies: of that student on the test split.
        state: the report's outcome, or what else became of the node.
        data: its own images, as its config says; None: it has none.
        references: what its student is to be seen beside; None: nothing.
        details: name of the file of what the page draws of the student.
    """
    plain = NodeResult(
        name=node.name,
        profile=_profile(node),
        method=config.students[node.student].method,
        seed=config.seed,
        state=state,
        data=data,
        references=references,
    )
    if report is None:
        return plain
    own = tuple(from_wire(Evaluation, each) for each in report.robust)
    reported: dict[str, object] = {
        "seed": report.seed,
        "cap": from_wire(Cap, report.cap) if report.cap.method else None,
        "peak_memory_mib": report.peak_memory_mib or None,
        "pulled_bytes": report.pulled_bytes,
        "robust": _joined(accuracies, own),
        "curve": tuple(from_wire(CurvePoint, each) for each in report.curve),
        "own_class_robust": _of_own_classes(accuracies),
        "as_shipped": report.as_shipped or None,
        "details": details,
        "notes": tuple(report.notes) or None,
    }
    on_release = tuple(from_wire(Evaluation, each) for each in report.release_robust)
    if on_release and on_release != own:
        reported["release_robust"] = _joined(None, on_release)
        if report.HasField("release_clean_accuracy"):
            reported["release_clean_accuracy"] = report.release_clean_accuracy
    if data is not None:
        counts = {
            "trained_on": report.own_images,
            "trained_on_labelled": report.own_labelled,
        }
        reported["data"] = data.model_copy(update=counts)
    if report.architecture:
        reported["student"] = Student(
            architecture=report.architecture,
            num_parameters=report.num_parameters,
            path=None if student is None else str(student),
        )
    if report.HasField("cpu_s"):
        reported["cpu_s"] = from_wire(CpuSeconds, report.cpu_s)
    if accuracies is not None:
        reported["clean_accuracy"] = accuracies.clean_accuracy
    # Validated again: a node's numbers come from outside.
    return NodeResult.model_validate({**dict(plain), **reported})


def baseline_result(
    node: NodeConfig,
    result: DistilResult,
    usage: ChildUsage,
    *,
    student: Path,
    accuracies: Accuracies | None,
) -> NodeResult:
    """Describe a baseline, trained in the place of a node's student."""
    return NodeResult(
        name=node.name,
        profile=_profile(node),
        cap=usage.cap,
        student=Student(
            architecture=result.architecture,
            num_parameters=result.num_parameters,
            path=str(student),
        ),
        method=result.method,
        seed=result.seed,
        clean_accuracy=None if accuracies is None else accuracies.clean_accuracy,
        robust=_joined(accuracies, result.robust),
        own_class_robust=_of_own_classes(accuracies),
        cpu_s=result.cpu_s,
        peak_memory_mib=usage.peak_memory_mib or None,
        state="trained",
        curve=tuple(CurvePoint(**point.model_dump()) for point in result.curve),
    )


def reference_result(
    kind: str,
    result: DistilResult | None,
    student: Student | None,
    *,
    method: str,
    accuracies: Accuracies | None,
    details: str | None = None,
) -> Reference:
    """Describe what a node's student is seen beside.

    Args:
        kind: "own_only", "shipped" or "natural".
        result: of its training; None: there was none, or it failed.
        student: the model; None: its training failed.
        method: by which it was or should have been trained.
        accuracies: on the test images; None: not measured.
        details: name of the file of what the page draws of it.
    """
    trained = "shipped" if result is None else "trained"
    return Reference(
        kind=kind,
        method=method,
        student=student,
        clean_accuracy=None if accuracies is None else accuracies.clean_accuracy,
        robust=() if accuracies is None else (accuracies.robust,),
        own_class_robust=_of_own_classes(accuracies),
        cpu_s=NotMeasured() if result is None else result.cpu_s,
        state="failed" if student is None else trained,
        details=details,
    )


def _of_own_classes(accuracies: Accuracies | None) -> tuple[Evaluation, ...] | None:
    if accuracies is None or accuracies.own_classes is None:
        return None
    return (accuracies.own_classes,)


def _joined(
    accuracies: Accuracies | None, own: tuple[Evaluation, ...]
) -> tuple[Evaluation, ...]:
    """Put AutoAttack on the test split before the validation results."""
    test = () if accuracies is None else (accuracies.robust,)
    marked = (
        each.model_copy(update={"flags": (*each.flags, VALIDATION)}) for each in own
    )
    return (*test, *marked)


def _profile(node: NodeConfig) -> Profile:
    return Profile.model_validate(node.profile, from_attributes=True)
