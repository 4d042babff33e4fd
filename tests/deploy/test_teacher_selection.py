"""The teacher of a run, chosen among candidates by what a student becomes."""

import json
from pathlib import Path

import pytest

from cloud.extraction.worker import Extractor
from cloud.publishing.publish import draft_manifest
from cloud.storage import StorageDir
from cloud.training.teacher import fit_teacher
from cloud.training.teacher_card import write_teacher
from cloud.training.teacher_files import (
    as_trial,
    check_teacher_options,
    finished_teacher,
    teacher_options,
)
from common.config import RunConfig
from common.config.toml_file import parse_config
from common.data.datasets import load_dataset
from common.errors import ConfigError
from common.models.files import load_model
from common.release import TeacherCard
from deploy.selection.teacher import as_candidate, make_teacher

CONFIG = """
channel = "small"
[dataset]
name = "digits"
limit = 400
[threat]
eps = 0.02
[teacher]
model = "cnn_tiny"
epochs = 2
batch_size = 32
attack = { steps = 1, step_size = 0.02 }
[knowledge]
contents = ["soft_labels"]
attack = { steps = 2, step_size = 0.01 }
[choice]
student = "tiny"
seeds = [0]
[choice.candidates.hasty]
epochs = 1
[choice.candidates.patient]
epochs = 12
[choice.candidates.blunt] # the same teacher, with labels that say next to nothing
epochs = 12
temperature = 1000.0
[students.tiny]
model = "cnn_tiny"
method = "rslad"
epochs = 8
eps_warmup_epochs = 0
attack = { steps = 1, step_size = 0.02 }
[evaluation]
node_attack = { steps = 2, step_size = 0.01 }
"""


class Stage:
    """Stage 1 without Ray, and what it was asked to do."""

    def __init__(self) -> None:  # noqa: D107
        self.trained: list[int] = []

    def train(self, config: RunConfig, storage: StorageDir) -> TeacherCard:
        card = finished_teacher(config, storage)
        if card is not None:
            return card
        self.trained.append(config.teacher.epochs)
        storage.create()
        dataset = load_dataset(config.dataset, seed=config.seed)
        run = fit_teacher(config, dataset)
        return write_teacher(config, dataset, run, storage.root)

    def extract(self, config: RunConfig, storage: StorageDir) -> Path:
        storage.create(storage.knowledge)
        extractor = Extractor(config.model_dump_json(), str(storage.root))
        shards = extractor.extract(0, 360)
        storage.knowledge_index.write_text(json.dumps(shards))
        return storage.knowledge


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return parse_config(CONFIG, RunConfig, source="test")


def test_the_best_students_teacher_is_taken_with_all_scores_on_its_card(
    config: RunConfig, tmp_path: Path
) -> None:
    stage, told, storage = Stage(), list[str](), StorageDir(tmp_path)
    card = make_teacher(
        config, storage, told.append, train=stage.train, extract=stage.extract
    )
    choice = card.choice
    assert choice is not None
    assert stage.trained == [1, 12]  # candidates that differ in temperature share one
    by_name = {s.candidate: s.student_robust_accuracy for s in choice.scores}
    assert list(by_name) == ["hasty", "patient", "blunt"] and len(told) == 3
    assert choice.candidate == "patient"
    assert by_name["patient"] == max(by_name.values())
    assert by_name["patient"] > by_name["blunt"]
    # It is the run's own teacher now, for extraction and all that follows.
    assert finished_teacher(config, storage) == card
    check_teacher_options(config, storage)
    assert json.loads(storage.card.read_bytes())["options"] == teacher_options(config)
    load_model(tmp_path / "teacher.safetensors")
    dataset = load_dataset(config.dataset, seed=0)
    manifest = draft_manifest(config, dataset, teacher=card, shards=())
    assert manifest.teacher.choice == choice
    assert manifest.temperature == choice.temperature == 1.0


def test_a_choice_that_was_cut_does_not_train_again(
    config: RunConfig, tmp_path: Path
) -> None:
    first, again, storage = Stage(), Stage(), StorageDir(tmp_path)
    card = make_teacher(config, storage, train=first.train, extract=first.extract)
    (tmp_path / "teacher.json").unlink()
    students = list(tmp_path.glob("candidates/*/score-*.json"))
    assert len(students) == 3
    written = [path.stat().st_mtime_ns for path in students]
    assert (
        make_teacher(config, storage, train=again.train, extract=again.extract) == card
    )
    assert again.trained == []
    assert [path.stat().st_mtime_ns for path in students] == written


def test_the_temperature_that_was_chosen_is_the_releases(config: RunConfig) -> None:
    assert config.choice is not None
    blunt = as_candidate(config, config.choice.candidates["blunt"])
    assert blunt.knowledge.temperature == 1000.0
    assert blunt.teacher.epochs == 12
    assert blunt.choice is None


def test_a_choice_by_an_unknown_student_is_refused() -> None:
    text = CONFIG.replace('student = "tiny"', 'student = "big"')
    with pytest.raises(ConfigError, match=r"choice.student = 'big'.*\['tiny'\]"):
        parse_config(text, RunConfig, source="test")


def test_a_chosen_teacher_is_not_taken_for_one_without_a_choice(
    config: RunConfig, tmp_path: Path
) -> None:
    stage, storage = Stage(), StorageDir(tmp_path)
    make_teacher(config, storage, train=stage.train, extract=stage.extract)
    assert finished_teacher(config, storage) is not None
    plain = config.model_copy(update={"choice": None})
    assert finished_teacher(plain, storage) is None


def test_a_teacher_chosen_in_a_trial_is_not_taken_for_a_whole_one(
    config: RunConfig, tmp_path: Path
) -> None:
    class Trial(Stage):
        def train(self, config: RunConfig, storage: StorageDir) -> TeacherCard:
            return super().train(as_trial(config), storage)

    stage, storage = Trial(), StorageDir(tmp_path)
    teacher = config.teacher.model_copy(update={"use_gpu": True, "epochs": 30})
    whole = config.model_copy(update={"teacher": teacher})
    asked = teacher.model_copy(update={"trial": True})
    trial = config.model_copy(update={"teacher": asked})
    assert make_teacher(trial, storage, train=stage.train, extract=stage.extract).trial
    check_teacher_options(trial, storage)
    with pytest.raises(ConfigError, match=r"teacher\.epochs = 30, but the teacher in"):
        check_teacher_options(whole, storage)
