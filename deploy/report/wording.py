"""Sentences about a run, computed from its numbers: of each part, and the verdict.

The verdict says how many nodes have a student, how robust those are beside the teacher,
what training at the nodes added to the students as shipped and, with baselines, by how
much it beats them. It praises nothing and leaves out nothing that went wrong. Not here:
exit codes, tables.
"""

from collections.abc import Mapping, Sequence

from common.config import RunConfig
from common.data.datasets import describe_absent
from common.records import Evaluation
from common.release import TeacherCard
from common.text import counted
from deploy.report.arms import SHIPPED, arms_of
from deploy.report.result import (
    Accuracies,
    DatasetFacts,
    NodeResult,
    ReleaseFacts,
    TeacherResult,
)

DELIVERED = "promoted"
TRIAL = "a trial: the teacher had two epochs on CPUs, no figure here is a result"
MOST_NAMED = 4  # nodes that the verdict names one by one
ATTACK_NAMES = {"autoattack": "AutoAttack", "pgd": "PGD", "fgsm": "FGSM"}


def percent(fraction: float | None) -> str:
    """Print a fraction in percent with one decimal; "-" where not measured."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def describe(evaluation: Evaluation) -> str:
    """Say what a robust accuracy means: attack, norm, eps and number of images."""
    images = counted(evaluation.num_images, "image")
    return f"{describe_attack(evaluation)}, {images}"


def describe_attack(evaluation: Evaluation) -> str:
    """Say by what a robust accuracy was measured: attack, norm and eps."""
    name = ATTACK_NAMES.get(evaluation.attack, evaluation.attack)
    return f"{name} {evaluation.version}, {evaluation.norm}, eps {evaluation.eps:.4g}"


def human_bytes(count: float | None) -> str:
    """Print a number of bytes with a binary unit; "-" where not measured."""
    if count is None:
        return "-"
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def describe_teacher(card: TeacherCard) -> str:
    """Say in a line what came of stage 1."""
    parts = [
        f"{card.architecture}, {counted(card.num_parameters, 'parameter')}",
        f"clean {percent(card.clean_accuracy)} %",
    ]
    if card.trial:
        parts.insert(0, "a trial of two epochs on CPUs")
    if card.robust:
        robust = card.robust[0]
        parts.append(
            f"{robust.attack.upper()} {percent(robust.accuracy)} % ({robust.norm}, eps "
            f"{robust.eps:.4g}, {counted(robust.num_images, 'image')})"
        )
    return ", ".join(parts)


def describe_progress(epoch: Mapping[str, object], config: RunConfig) -> str:
    """Say how far the teacher's training is.

    Args:
        epoch: the last line of its progress file; may lack any key.
        config: of the run.
    """
    if "epoch" not in epoch:
        return ""
    epochs, wanted = epoch.get("epochs", "?"), config.teacher.epochs
    text = f"epoch {epoch['epoch']}/{epochs}"
    # See cloud.training.job; a candidate of a choice may have fewer of its own.
    is_trial = config.teacher.trial and config.choice is None
    if is_trial and isinstance(epochs, int) and epochs < wanted:
        text += f" (a trial on CPUs; a GPU would train {wanted})"
    clean, robust = epoch.get("clean_accuracy"), epoch.get("robust_accuracy")
    num_val = epoch.get("num_val")
    if isinstance(clean, float):
        text += f", clean {percent(clean)} %"
    if isinstance(robust, float) and isinstance(num_val, int):
        threat = config.threat
        text += (
            f", PGD {percent(robust)} % ({threat.norm}, eps {threat.eps:.4g}, "
            f"{counted(num_val, 'validation image')})"
        )
    return text


def describe_release(release: ReleaseFacts) -> str:
    """Say in a line what was published."""
    shipped = ""
    if "images" in release.bytes_per_sample:
        shipped = ", the images themselves among them"
    if "weights" in release.bytes_per_sample:
        shipped += ", with starting weights"
    return (
        f"{release.channel} v{release.version}: {human_bytes(release.bytes)} for "
        f"{counted(release.num_samples, 'sample')}{shipped}"
    )


def describe_nodes(states: Mapping[str, str]) -> str:
    """Say in a line what became of the nodes; states by node."""
    return ", ".join(f"{node} {state}" for node, state in states.items())


def describe_evaluation(measured: Sequence[Accuracies]) -> str:
    """Say in a line what was measured."""
    images = sum(accuracies.robust.num_images for accuracies in measured)
    models = counted(len(measured), "model")
    return f"{models}, {counted(images, 'attacked image')} in all"


def describe_failure(phase: str, message: str) -> str:
    """Write the verdict of a run that failed before a node was done."""
    return f"The run ended in phase '{phase}': {message}"


def make_verdict(
    nodes: Sequence[NodeResult],
    teacher: TeacherResult | None,
    baselines: Sequence[NodeResult] | None = None,
    dataset: DatasetFacts | None = None,
) -> str:
    """Write the verdict of a run that went to its end."""
    good = [node for node in nodes if node.state == DELIVERED]
    bad = [node for node in nodes if node.state != DELIVERED]
    mark = f" ({TRIAL})" if teacher is not None and teacher.trial else ""
    if not nodes:
        return (
            "No nodes were configured: the release is published, no student made"
            f"{mark}."
        )
    if not good:
        return f"No node promoted a student: {_states(bad)}{mark}."
    whole = f"All {len(nodes)}" if len(nodes) > 1 else "The one"
    count = whole if not bad else f"{len(good)} of {len(nodes)}"
    noun = "nodes" if len(nodes) > 1 else "node"
    shifted = [node for node in good if _is_shifted(node)]
    plain = [node for node in good if node not in shifted]
    robustness = _robustness(plain, teacher) if plain else _robustness(shifted, None)
    parts = [f"{count} {noun} promoted a student{robustness}"]
    parts += [_on_shifted(shifted) if plain else "", _added(good)]
    if baselines is not None:
        parts.append(_margins(good, baselines))
    if bad:
        parts.append(f"not so: {_states(bad)}")
    absent = (dataset and dataset.absent_classes) or {}
    parts += [describe_absent(split, classes) for split, classes in absent.items()]
    return "; ".join(part for part in parts if part) + f"{mark}."


def _states(nodes: Sequence[NodeResult]) -> str:
    return ", ".join(f"{node.name} {node.state}" for node in nodes)


def _is_shifted(node: NodeResult) -> bool:
    return node.data is not None and node.data.shift not in (None, "none")


def _on_shifted(nodes: Sequence[NodeResult]) -> str:
    """Say how robust students are that are measured on images of a shifted camera."""
    found = [
        f"{node.name} {percent(node.autoattack.accuracy)} %"
        for node in nodes
        if node.autoattack is not None
    ]
    return f"on images shifted as its own are: {', '.join(found)}" if found else ""


def _robustness(nodes: Sequence[NodeResult], teacher: TeacherResult | None) -> str:
    found = [node.autoattack for node in nodes if node.autoattack is not None]
    if not found:
        return ", whose robust accuracy was not measured"
    values = sorted(evaluation.accuracy for evaluation in found)
    span = _span(percent(values[0]), percent(values[-1]))
    counts = sorted({evaluation.num_images for evaluation in found})
    images = " or ".join(str(count) for count in counts)
    each = "image" if counts == [1] else "images"
    if len(found) > 1:
        each += " each"
    text = f" of {span} % robust accuracy"
    best = None if teacher is None else teacher.autoattack
    if best is not None:
        text += f", against {percent(best.accuracy)} % of the teacher"
    text += f" (AutoAttack, {found[0].norm}, eps {found[0].eps:.4g}, {images} {each}"
    if best is not None:
        text += f", {best.num_images} for the teacher"
    return text + ")"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _added(nodes: Sequence[NodeResult]) -> str:
    """Say what training at the nodes added to the students as they were shipped."""
    found = [
        (each.node.name, gain, each.gain(SHIPPED, own_classes=True))
        for each in arms_of(nodes, None)
        if (gain := each.gain(SHIPPED)) is not None
    ]
    if not found:
        return ""
    if len(found) <= MOST_NAMED:
        texts = [
            f"{name} {_points(gain)}"
            + (f" ({_points(own)} on its own classes)" if own is not None else "")
            for name, gain, own in found
        ]
        return f"points over the student as shipped: {', '.join(texts)}"
    gains = sorted(gain for _, gain, _ in found)
    text = f"{_span(_points(gains[0]), _points(gains[-1]))} points"
    text += " over the students as shipped"
    owns = sorted(own for _, _, own in found if own is not None)
    if owns:
        text += f", {_span(_points(owns[0]), _points(owns[-1]))} on own classes"
    return text


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}"


def baseline_name(baselines: Sequence[NodeResult] | None) -> str:
    """Name what the baselines of a run were trained by."""
    methods = {each.method for each in baselines or ()}
    if methods <= {"pgd_at"}:
        return "untuned PGD-AT"
    return f"an untuned training without a teacher ({', '.join(sorted(methods))})"


def _margins(nodes: Sequence[NodeResult], baselines: Sequence[NodeResult]) -> str:
    """Compare each student with its baseline in percentage points."""
    by_name = {baseline.name: baseline for baseline in baselines}
    margins = []
    for node in nodes:
        other = by_name.get(node.name)
        if other is not None and node.autoattack and other.autoattack:
            margins.append(node.autoattack.accuracy - other.autoattack.accuracy)
    if not margins:
        return "no baseline could be compared"
    margins.sort()
    span = _span(_points(margins[0]), _points(margins[-1]))
    name = baseline_name(baselines)
    return f"{span} points over {name} with the same CPU-seconds"
