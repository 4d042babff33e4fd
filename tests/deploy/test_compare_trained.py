"""Students that are trained and wait to be measured."""

from pathlib import Path

import torch
from small_runs import small_card

from common.models.zoo import build_model
from deploy.compare.trained import TrainedStudents, TrainingSummary

SUMMARY = TrainingSummary(
    teacher_sha256="5e",
    epochs=3,
    cpu_s=1.5,
    attack_cpu_s=0.5,
    val_robust_accuracy=None,
    flags=("retried",),
    trained_with=("takt", "takt"),
)
CARD = small_card(fingerprint="ab")


def kept(folder: Path) -> tuple[TrainedStudents, torch.nn.Module]:
    students = TrainedStudents(folder / "trained")
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    students.save("a1", model, CARD, SUMMARY)
    return students, model


def test_a_kept_student_answers_as_it_did(tmp_path: Path) -> None:
    students, model = kept(tmp_path)
    found = students.load("a1", "5e")
    assert found is not None
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(found[0](x), model.eval()(x))
    assert found[1] == SUMMARY
    assert not found[0].training


def test_a_student_that_is_measured_is_kept_no_longer(tmp_path: Path) -> None:
    students, _ = kept(tmp_path)
    students.drop("a1")
    students.drop("a1")
    assert students.load("a1", "5e") is None


def test_a_student_of_another_teacher_is_none(tmp_path: Path) -> None:
    students, _ = kept(tmp_path)
    assert students.load("a1", "5f") is None


def test_a_damaged_student_is_none(tmp_path: Path) -> None:
    students, _ = kept(tmp_path)
    for name, mark in (("a1.safetensors", b"takt.card"), ("a1.json", b"epochs")):
        path = students.folder / name
        data = path.read_bytes()
        foreign = data.replace(mark, b"x" * len(mark))
        for damaged in (b"", data[:100], data[:-9], foreign):
            path.write_bytes(damaged)
            assert students.load("a1", "5e") is None
        path.write_bytes(data)
        assert students.load("a1", "5e") is not None
