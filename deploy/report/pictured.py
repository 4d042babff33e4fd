"""The pictured students of the page: their images, and what is said of them.

Of each student that a run kept details of: a row of test images with what it and its
natural twin answer, and its curve against eps. A page has room for a few students only;
`choose` says which. Not here: reading details (deploy/report/details.py), classes and
mistakes (deploy/report/by_class.py), the layout
(deploy/report/templates/pictured.html).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.text import counted
from deploy.report.bars import BarRow
from deploy.report.by_class import (
    Matrix,
    class_rows,
    matrix,
    worst_class,
    worst_mistakes,
)
from deploy.report.charts import Series
from deploy.report.details import Answer, Details, Sample
from deploy.report.result import NodeResult, RunResult
from deploy.report.svg import hue
from deploy.report.wording import percent

MOST_PICTURED = 6  # students
MOST_PICTURE_BYTES = 1_600_000  # of their images, so that a page stays below 2 MB
_NATURAL = "natural"
_FATES = {
    "autoattack": ("broken", "bad"),
    "pgd": ("withstood", "good"),
    "none": ("missed", "warn"),
}


@dataclass(frozen=True)
class Pictured:
    """A student with details, and its natural twin's, where there is one."""

    node: NodeResult
    index: int  # of the node, for its colour
    details: Details
    twin: Details | None


@dataclass(frozen=True)
class Card:
    """What the page shows of a pictured student."""

    name: str
    note: str
    magnified: str  # by how much the difference is
    has_twin: bool
    sights: tuple["Sight", ...]
    worst_class: str
    class_rows: list[BarRow]
    worst_mistakes: list[str]
    matrix: Matrix | None  # None: too many classes


@dataclass(frozen=True)
class Choice:
    """Which students a page pictures, and what it says of the others."""

    students: tuple[Pictured, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """An answer to one image."""

    question: str  # which model, and which image
    name: str  # of the class that it names
    confidence: str
    is_right: bool


@dataclass(frozen=True)
class Sight:
    """A test image, attacked, and what was said of it."""

    name: str  # of its class
    sample: Sample
    clean: Said
    attacked: Said
    fate: tuple[str, str]  # what the attack did, and the style of that
    twin: tuple[Said, ...]


def named_details(result: RunResult) -> list[str]:
    """List the files of details that a result names, each once."""
    names = [node.details for node in result.nodes]
    names += [each.details for node in result.nodes for each in node.references or ()]
    return list(dict.fromkeys(name for name in names if name is not None))


def choose(result: RunResult, details: Mapping[str, Details]) -> Choice:
    """Choose the students that a page pictures: the first ones that fit.

    Args:
        result: of a run.
        details: by the names of their files; a file that is gone is left out.
    """
    found = [
        Pictured(node, index, details[node.details], _twin(node, details))
        for index, node in enumerate(result.nodes)
        if node.details is not None and node.details in details
    ]
    students: list[Pictured] = []
    room = MOST_PICTURE_BYTES
    for each in found[:MOST_PICTURED]:
        room -= _num_bytes(each.details)
        if room < 0:
            break
        students.append(each)
    notes = []
    if len(students) < len(found):
        notes.append(
            f"Pictured are the first {len(students)} of "
            f"{counted(len(found), 'student')}, which keeps this page small; the files "
            "of all are in details/."
        )
    gone = [name for name in named_details(result) if name not in details]
    notes += [f"{name} is gone, and with it what it held." for name in gone[:3]]
    return Choice(tuple(students), tuple(notes))


def _twin(node: NodeResult, details: Mapping[str, Details]) -> Details | None:
    for each in node.references or ():
        if each.kind == _NATURAL and each.details is not None:
            return details.get(each.details)
    return None


def _num_bytes(details: Details) -> int:
    return sum(
        len(each.x) + len(each.x_adv) + len(each.delta) for each in details.samples
    )


def cards_of(choice: Choice) -> list[Card]:
    """Put together what the page shows of each student; the first explains the rest."""
    return [
        _card(student, explained=each > 0)
        for each, student in enumerate(choice.students)
    ]


def _card(student: Pictured, *, explained: bool) -> Card:
    details = student.details
    return Card(
        name=student.node.name,
        note=_describe_pictures(student, explained=explained),
        magnified=f"{0.5 / details.eps:.3g}",  # from +-eps to black and white
        has_twin=student.twin is not None,
        sights=tuple(_sights(student)),
        worst_class=worst_class(details),
        class_rows=class_rows(details, hue(student.index)),
        worst_mistakes=worst_mistakes(details),
        matrix=matrix(details),
    )


def _sights(student: Pictured) -> Iterator[Sight]:
    """Give a student's images with all answers to them."""
    names = [each.name for each in student.details.classes]
    twins = (
        {each.position: each for each in student.twin.samples} if student.twin else {}
    )
    for sample in student.details.samples:
        yield Sight(
            name=names[sample.label],
            sample=sample,
            clean=_said("clean", sample.clean, sample, names),
            attacked=_said("attacked", sample.attacked, sample, names),
            fate=_fate(sample),
            twin=_said_by_twin(twins.get(sample.position), sample, names),
        )


def _said(question: str, answer: Answer, sample: Sample, names: Sequence[str]) -> Said:
    return Said(
        question=question,
        name=names[answer.label],
        confidence=f"{100 * answer.confidence:.0f} %",
        is_right=answer.label == sample.label,
    )


def _said_by_twin(
    twin: Sample | None, sample: Sample, names: Sequence[str]
) -> tuple[Said, ...]:
    """Give a twin's answers: clean, to the student's attacked image, to its own."""
    if twin is None or twin.label != sample.label:
        return ()
    if any(each.label >= len(names) for each in (twin.clean, twin.attacked)):
        return ()
    said = [_said("twin, clean", twin.clean, sample, names)]
    if twin.same_image is not None and twin.same_image.label < len(names):
        said.append(_said("twin, att.", twin.same_image, sample, names))
    said.append(_said("twin, own", twin.attacked, sample, names))
    return tuple(said)


def _fate(sample: Sample) -> tuple[str, str]:
    if sample.attack == "pgd" and sample.attacked.label != sample.label:
        return "broken by PGD alone", "bad"
    return _FATES[sample.attack]


def _describe_pictures(student: Pictured, *, explained: bool) -> str:
    """Say which images a student's are, how they were attacked and how they are drawn.

    Args:
        student: whose they are.
        explained: whether a card above has said what is the same for all.
    """
    details = student.details
    text = "The first attacked test image of each class, whatever came of it"
    if len(details.classes) > len(details.samples):
        text = "The first attacked test image of some classes, whatever came of it"
    shift = student.node.data.shift if student.node.data else None
    if shift is not None:
        text += f", as its camera sees it ({shift})"
    if explained:
        return f"{text}. All else as above."
    text += (
        f". Attacked by AutoAttack, Linf, eps {details.eps:.4g}; where that changed no "
        "answer the image withstood, and where PGD arrived is shown. Missed: wrong "
        "before any attack. Difference: grey is no change, black and white are eps. "
        "Per cents beside an answer are the model's confidence."
    )
    if student.twin is not None:
        text += (
            " The natural twin, the same model and images trained without attacks, "
            "answers the clean image, the attacked one that is shown (in 8 bits), and "
            "the one of its own attack: AutoAttack's against it."
        )
    if details.every > 1:
        text += f" Of each image every {details.every}. pixel is shown, each way."
    return text


def describe_curves(choice: Choice) -> str:
    """Say what the curves of accuracy against eps are of."""
    radii = [each for student in choice.students for each in student.details.radii]
    first = radii[-1]
    counts = sorted({each.num_images for each in radii})
    images = " or ".join(f"{count:,}" for count in counts)
    text = (
        f"Under PGD ({first.version}, {first.norm}, {images} test images) at eps from "
        "0 to twice the threat model's, which the line marks. An image that a smaller "
        "eps broke counts as broken, so a curve never rises. Rings: AutoAttack, the "
        "stronger attack."
    )
    if any(student.twin is not None for student in choice.students):
        text += (
            " Dashed: the natural twin, the same model and images trained without "
            "attacks."
        )
    return text


def curves_of(student: Pictured) -> list[Series]:
    """Give accuracy against eps of a student, with AutoAttack's, and of its twin."""
    found = []
    both = [(student.node.name, student.details, False)]
    if student.twin is not None:
        both.append((f"{student.node.name}, natural twin", student.twin, True))
    for name, details, is_twin in both:
        points = [(each.eps, each.accuracy) for each in details.radii]
        if not points:
            continue
        exact = student.node.autoattack
        eps = details.eps
        rings = []
        if exact is not None and exact.eps == eps and not is_twin:
            rings.append((eps, exact.accuracy))
        at_eps = min(details.radii, key=lambda each: abs(each.eps - eps))
        found.append(
            Series(
                name=name,
                index=student.index,
                points=points,
                dashed=is_twin,
                note=f"{name}: {percent(at_eps.accuracy)} % at eps {at_eps.eps:.4g}, "
                f"{percent(points[-1][1])} % at {points[-1][0]:.4g}",
                rings=rings,
            )
        )
    return found
