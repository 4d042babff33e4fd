"""What is being measured of one model: the parts of it, and what they come to.

Joins the replies of the workers: a robust accuracy of its chunks, the figures of a
node's own classes, and the details that the page draws. Not here: the workers
(deploy/evaluation/pool.py), measuring (deploy/evaluation/worker.py).
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from common.errors import Interrupted, error_of
from common.records import Evaluation
from deploy.evaluation.images import OWN_CLASSES
from deploy.evaluation.worker import AttackedSample, ClassCount, EvaluationReply
from deploy.report.details import ClassDetail, Details, Mistake
from deploy.report.result import Accuracies


@dataclass
class Measurement:
    """A measurement that is under way."""

    clean: Future[EvaluationReply]
    chunks: list[Future[EvaluationReply]]
    radii: Future[EvaluationReply] | None = None  # None: no details are wanted
    shares: dict[int, float] = field(default_factory=dict)  # done of a chunk, by place

    @property
    def detailed(self) -> bool:
        """Return whether what the page draws is measured as well."""
        return self.radii is not None

    @property
    def progress(self) -> float:
        """Return the fraction of the attacks that is done."""
        done = (
            1.0 if chunk.done() else self.shares.get(place, 0.0)
            for place, chunk in enumerate(self.chunks)
        )
        return sum(done) / len(self.chunks)

    def done(self) -> bool:
        """Return whether there is a `result`, or an error in its place.

        There never is one where the pool was closed before a part was done.
        """
        return all(map(_replied, [self.clean, *self.chunks]))

    def has_details(self) -> bool:
        """Return whether there are `details`, or an error in their place."""
        return self.radii is not None and self.done() and _replied(self.radii)

    def result(
        self, timeout: float | None = None, *, classes: Sequence[int] = ()
    ) -> Accuracies:
        """Wait for the accuracies.

        Args:
            timeout: in seconds; None: as long as it takes.
            classes: a node's own, which are measured apart as well; none: not.

        Raises:
            TaktError: a worker met an error, or died.
        """
        clean = accepted(self.clean.result(timeout)).clean_accuracy
        replies = [accepted(chunk.result(timeout)) for chunk in self.chunks]
        found = [reply.robust for reply in replies if reply.robust is not None]
        assert clean is not None and len(found) == len(replies)
        robust = merge_chunks(found)
        counts = [reply.by_class for reply in replies]
        return Accuracies(clean, robust, _of_classes(robust, counts, classes))

    def samples(self) -> tuple[AttackedSample, ...]:
        """Wait for the samples, by class; none where no details are wanted.

        Raises:
            TaktError: a worker met an error, or died.
        """
        replies = [accepted(chunk.result()) for chunk in self.chunks]
        found = [each for reply in replies for each in reply.samples]
        return tuple(sorted(found, key=lambda each: each.sample.label))

    def details(self) -> Details | None:
        """Wait for what the page draws; None: it is not wanted.

        Raises:
            TaktError: a worker met an error, or died.
        """
        if self.radii is None:
            return None
        clean = accepted(self.clean.result())
        replies = [accepted(chunk.result()) for chunk in self.chunks]
        robust = [
            ClassCount(
                images=sum(count.images for count in counts),
                right=sum(count.right for count in counts),
            )
            for counts in zip(*(reply.by_class for reply in replies), strict=True)
        ]
        assert replies[0].robust is not None
        return Details(
            eps=replies[0].robust.eps,
            every=clean.every,
            classes=tuple(
                ClassDetail(
                    name=name[:256],
                    tested=tested.images,
                    right=tested.right,
                    attacked=attacked.images,
                    robust=attacked.right,
                )
                for name, tested, attacked in zip(
                    clean.class_names, clean.by_class, robust, strict=True
                )
            ),
            mistakes=_joined([reply.mistakes for reply in replies]),
            radii=accepted(self.radii.result()).radii,
            samples=tuple(each.sample for each in self.samples()),
        )


def _replied(part: Future[EvaluationReply]) -> bool:
    """Return whether a part is over, and not because its pool was closed."""
    if not part.done() or part.cancelled():
        return False
    return not isinstance(part.exception(), Interrupted)


def accepted(reply: EvaluationReply) -> EvaluationReply:
    """Return a reply that is no error.

    Raises:
        TaktError: it is one.
    """
    if reply.error_code:
        raise error_of(reply.error_code)(reply.error)
    return reply


def merge_chunks(chunks: Sequence[Evaluation]) -> Evaluation:
    """Join evaluations of disjoint images; several are marked by a flag."""
    num_images = sum(chunk.num_images for chunk in chunks)
    right = sum(chunk.accuracy * chunk.num_images for chunk in chunks)
    flags = {flag for chunk in chunks for flag in chunk.flags}
    if len(chunks) > 1:
        flags.add(f"chunks_of_{max(chunk.num_images for chunk in chunks)}")
    return chunks[0].model_copy(
        update={
            "num_images": num_images,
            "accuracy": round(right) / num_images,
            "flags": tuple(sorted(flags)),
        }
    )


def _of_classes(
    robust: Evaluation,
    counts: Sequence[tuple[ClassCount, ...]],
    classes: Sequence[int],
) -> Evaluation | None:
    """Take the figure of some classes from an attack on all; None: no image of them."""
    own = [chunk[k] for chunk in counts for k in classes if k < len(chunk)]
    attacked = sum(count.images for count in own)
    if not attacked:
        return None
    return robust.model_copy(
        update={
            "num_images": attacked,
            "accuracy": sum(count.right for count in own) / attacked,
            "flags": (*robust.flags, OWN_CLASSES),
        }
    )


def _joined(chunks: Sequence[tuple[Mistake, ...]]) -> tuple[Mistake, ...]:
    """Add up the mistakes of disjoint images, the most frequent first."""
    counts: dict[tuple[int, int], int] = {}
    for mistake in (each for chunk in chunks for each in chunk):
        kind = (mistake.label, mistake.answer)
        counts[kind] = counts.get(kind, 0) + mistake.count
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Mistake(label=label, answer=answer, count=count)
        for (label, answer), count in order
    )
