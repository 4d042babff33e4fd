"""The teacher of a run: the one that [teacher] describes, or the best of [choice].

Every candidate is trained and its knowledge extracted as any teacher's is. Then a
student is distilled from each, and the candidate whose student is the most robust on
validation images becomes the run's teacher, with all scores on its card. What was done
before an interruption is not done again. Not here: the score
(deploy/selection/score.py), training (cloud/training/job.py).
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from cloud.extraction.job import extract_knowledge
from cloud.storage import StorageDir
from cloud.training.job import train_teacher
from cloud.training.teacher_files import as_trial, teacher_digest, teacher_options
from common.config import CandidateConfig, ChoiceConfig, RunConfig
from common.durable import write_atomic
from common.release import CandidateScore, ShardInfo, TeacherCard, TeacherChoice
from deploy.report.wording import percent

Train = Callable[[RunConfig, StorageDir], TeacherCard]
Extract = Callable[[RunConfig, StorageDir], Path]


def make_teacher(
    config: RunConfig,
    storage: StorageDir,
    update: Callable[[str], None] = lambda line: None,
    *,
    train: Train = train_teacher,
    extract: Extract = extract_knowledge,
) -> TeacherCard:
    """Leave the run's teacher in a storage folder, unless it is there.

    Args:
        config: of the run; with [choice] its candidates decide.
        storage: takes the teacher, and candidates/ with a folder for each.
        update: called with a line for each candidate.
        train: makes one teacher in a folder.
        extract: makes its knowledge there.

    Returns:
        The teacher's card; with [choice] it holds the scores of all candidates.

    Raises:
        TaktError: what `train` and `extract` raise, or a student's training.
    """
    if config.choice is None:
        return train(config, storage)
    scores: list[CandidateScore] = []
    found: dict[str, tuple[RunConfig, StorageDir]] = {}
    num_images = 0
    for name, changes in config.choice.candidates.items():
        own = as_candidate(config, changes)
        folder = storage.candidate(teacher_digest(own))
        card = train(own, folder)
        extract(own, folder)
        score, num_images = _score(own, config.choice, folder, card, name)
        scores.append(score)
        found[name] = own, folder
        update(
            f"candidate {name}: robust {percent(score.teacher_robust_accuracy)} %, its "
            f"student {percent(score.student_robust_accuracy)} % (PGD, {num_images} "
            "validation images)"
        )
    best = max(scores, key=lambda s: s.student_robust_accuracy)  # the first of equals
    own, folder = found[best.candidate]
    choice = TeacherChoice(
        candidate=best.candidate,
        student=config.choice.student,
        temperature=own.knowledge.temperature,
        num_images=num_images,
        scores=tuple(scores),
    )
    return _install(config, folder, storage, choice)


def as_candidate(config: RunConfig, changes: CandidateConfig) -> RunConfig:
    """Put a candidate's changes on top of a run's config; it has no candidates."""
    changed = changes.model_dump(exclude_none=True, exclude={"temperature"})
    knowledge = config.knowledge
    if changes.temperature is not None:
        knowledge = knowledge.model_copy(update={"temperature": changes.temperature})
    teacher = config.teacher.model_copy(update=changed)
    return config.model_copy(
        update={"teacher": teacher, "knowledge": knowledge, "choice": None}
    )


def _score(
    config: RunConfig,
    choice: ChoiceConfig,
    folder: StorageDir,
    card: TeacherCard,
    name: str,
) -> tuple[CandidateScore, int]:
    """Measure a candidate and its student; return the number of validation images, too.

    A score that was measured before is read back.
    """
    from cloud.publishing.publish import draft_manifest
    from common.data.datasets import load_dataset
    from deploy.selection.score import student_score, teacher_score

    recipe = config.students[choice.student]
    knowledge = config.knowledge.model_dump(mode="json", exclude={"num_actors"})
    decides: list[object] = [recipe.model_dump_json(), choice.seeds, knowledge]
    if card.trial:  # in the same folder as the whole training's
        decides.append("trial")
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
    path = folder.root / f"score-{digest}.json"
    dataset = load_dataset(config.dataset, seed=config.seed)
    if path.exists():
        kept = CandidateScore.model_validate_json(path.read_bytes())
        return kept.model_copy(update={"candidate": name}), len(dataset.val)
    index = json.loads(folder.knowledge_index.read_bytes())
    shards = tuple(ShardInfo.model_validate(entry) for entry in index)
    own = teacher_score(folder.weights, dataset, eps=config.threat.eps)
    its = student_score(
        recipe,
        draft_manifest(config, dataset, teacher=card, shards=shards),
        folder.knowledge,
        dataset,
        seeds=choice.seeds,
    )
    score = CandidateScore(
        candidate=name,
        teacher_robust_accuracy=own.robust_accuracy,
        student_robust_accuracy=its.robust_accuracy,
    )
    write_atomic(path, score.model_dump_json().encode())
    return score, len(dataset.val)


def _install(
    config: RunConfig, folder: StorageDir, storage: StorageDir, choice: TeacherChoice
) -> TeacherCard:
    """Make a candidate the run's teacher; its card last."""
    tree = json.loads(folder.card.read_bytes())
    as_trained = as_trial(config) if tree.get("trial") else config
    tree |= {
        "recipe": teacher_digest(as_trained),
        "options": teacher_options(as_trained),
        "choice": choice.model_dump(mode="json"),
    }
    write_atomic(storage.weights, folder.weights.read_bytes())
    write_atomic(storage.card, json.dumps(tree, indent=1).encode())
    return TeacherCard.model_validate(tree)
