"""One honest sentence about a run, computed from its numbers.

It says how many nodes have a student, how robust those are beside the teacher
and, with baselines, by how much they beat them. It praises nothing and leaves
out nothing that went wrong. Not here: exit codes, tables.
"""

from collections.abc import Sequence

from common.release import Evaluation
from deploy.report.result import NodeResult, TeacherResult, find_autoattack

DELIVERED = "promoted"
ATTACK_NAMES = {"autoattack": "AutoAttack", "pgd": "PGD", "fgsm": "FGSM"}


def percent(fraction: float | None) -> str:
    """Print a fraction in percent with one decimal; "-" where not measured."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def describe(evaluation: Evaluation) -> str:
    """Say what a robust accuracy means: attack, norm, eps and number of images."""
    name = ATTACK_NAMES.get(evaluation.attack, evaluation.attack)
    return (
        f"{name} {evaluation.version}, {evaluation.norm}, eps {evaluation.eps:.4g}, "
        f"{evaluation.num_images} images"
    )


def make_verdict(
    nodes: Sequence[NodeResult],
    teacher: TeacherResult | None,
    baselines: Sequence[NodeResult] | None = None,
) -> str:
    """Write the verdict of a run that went to its end."""
    good = [node for node in nodes if node.state == DELIVERED]
    bad = [node for node in nodes if node.state != DELIVERED]
    if not nodes:
        return "No nodes were configured: the release is published, no student made."
    if not good:
        return f"No node promoted a student: {_states(bad)}."
    whole = f"All {len(nodes)}" if len(nodes) > 1 else "The one"
    count = whole if not bad else f"{len(good)} of {len(nodes)}"
    noun = "nodes" if len(nodes) > 1 else "node"
    parts = [f"{count} {noun} promoted a student{_robustness(good, teacher)}"]
    if baselines is not None:
        parts.append(_margins(good, baselines))
    if bad:
        parts.append(f"not so: {_states(bad)}")
    return "; ".join(part for part in parts if part) + "."


def _states(nodes: Sequence[NodeResult]) -> str:
    return ", ".join(f"{node.name} {node.state}" for node in nodes)


def _robustness(nodes: Sequence[NodeResult], teacher: TeacherResult | None) -> str:
    found = [node.autoattack for node in nodes if node.autoattack is not None]
    if not found:
        return ", whose robust accuracy was not measured"
    values = sorted(evaluation.accuracy for evaluation in found)
    span = _span(percent(values[0]), percent(values[-1]))
    counts = sorted({evaluation.num_images for evaluation in found})
    images = " or ".join(str(count) for count in counts)
    each = "images each" if len(found) > 1 else "images"
    text = f" of {span} % robust accuracy"
    best = find_autoattack(teacher.robust) if teacher is not None else None
    if best is not None:
        text += f", against {percent(best.accuracy)} % of the teacher"
    text += f" (AutoAttack, {found[0].norm}, eps {found[0].eps:.4g}, {images} {each}"
    if best is not None:
        text += f", {best.num_images} for the teacher"
    return text + ")"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


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
    span = _span(f"{100 * margins[0]:+.1f}", f"{100 * margins[-1]:+.1f}")
    return f"{span} points over PGD-AT with the same CPU-seconds"
