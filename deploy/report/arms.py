"""What training at a node is worth: its student beside those that went without.

Of each node: trained on its own images alone, the student as the release ships it, the
one that the node trained, and with ``--compare`` an untuned one without a teacher;
on all classes, and on the node's own. Table, page and verdict show it. Not here: the
measuring, the layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.records import Evaluation
from deploy.report.result import NodeResult, OwnImages, RunResult, find_autoattack

ALONE, SHIPPED, TRAINED = "own images alone", "as shipped", "trained here"
NO_TEACHER = "without teacher"
_KINDS = {"own_only": ALONE, "shipped": SHIPPED}


@dataclass(frozen=True)
class Arm:
    """One student of a node: AutoAttack on all classes, and on the node's own."""

    name: str
    all_classes: Evaluation
    own_classes: Evaluation | None  # None: all classes are the node's own


@dataclass(frozen=True)
class NodeArms:
    """A node and its students, by the names above; what was not measured is absent."""

    node: NodeResult
    arms: dict[str, Arm]

    def gain(self, over: str, *, own_classes: bool = False) -> float | None:
        """Subtract an arm's robust accuracy from that of the trained student.

        Args:
            over: the name of the arm.
            own_classes: on the node's own classes alone.

        Returns:
            A difference of fractions; None: one of the two was not measured.
        """
        pair = [
            None if arm is None else arm.own_classes if own_classes else arm.all_classes
            for arm in (self.arms.get(TRAINED), self.arms.get(over))
        ]
        if pair[0] is None or pair[1] is None:
            return None
        return pair[0].accuracy - pair[1].accuracy


def arms_of(
    nodes: Sequence[NodeResult], baselines: Sequence[NodeResult] | None
) -> list[NodeArms]:
    """List the nodes of a run that have something to be seen beside, with all arms."""
    without = {each.name: each for each in baselines or () if each.method != "pgd_at"}
    found = []
    for node in nodes:
        named = [(_KINDS.get(ref.kind, ref.kind), ref) for ref in node.references or ()]
        students = dict(named) | {TRAINED: node}
        if node.name in without:
            students[NO_TEACHER] = without[node.name]
        arms = {}
        for name in (*_KINDS.values(), TRAINED, NO_TEACHER):
            student = students.get(name)
            if student is None or student.autoattack is None:
                continue
            own = find_autoattack(student.own_class_robust or ())
            arms[name] = Arm(name, student.autoattack, own)
        if len(arms) > 1 or node.data is not None:
            found.append(NodeArms(node, arms))
    return found


def run_arms(result: RunResult) -> list[NodeArms]:
    """Give the arms of a run; none where no node has anything to be seen beside."""
    return arms_of(result.nodes, result.baselines)


def describe_own(data: OwnImages | None) -> str:
    """Say in a few words which images a node has of its own."""
    if data is None:
        return "none"
    parts = [f"{data.images:,}" if data.images is not None else "a folder"]
    if data.classes:
        parts[0] += f" of {', '.join(str(k) for k in data.classes)}"
    if data.labelled is not None and data.labelled < 1:
        share = f"{100 * data.labelled:.0f} %" if data.labelled else "none"
        parts.append(f"{share} labelled")
    if data.shift is not None:
        parts.append(data.shift)
    if data.share_images:
        parts.append("shared")
    return ", ".join(parts)
