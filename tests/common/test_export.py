"""A student as an ONNX file: it answers as the student does, or it is refused."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.data.datasets import Dataset
from common.errors import ConfigError, StorageError, StudentError
from common.export.bounds import Bounds
from common.export.card import format_of
from common.export.encode import encode
from common.export.gate import GateFigures, measure, require_as_good
from common.export.session import OnnxStudent
from common.models.card import ModelCard
from common.models.zoo import build_model

ROOT = Path(__file__).resolve().parents[2]
EPS = 0.15
NO_IMAGES = np.zeros((1, 1, 8, 8), np.float32)
GOOD = GateFigures(1000, 200, 1e-6, 1.0, 0.9, 0.9, 0.5, 0.5)


@pytest.fixture(scope="module")
def card(digits: Dataset) -> ModelCard:
    return ModelCard(
        architecture="cnn_tiny",
        in_channels=1,
        image_size=8,
        num_classes=10,
        class_names=digits.class_names,
        dataset="digits",
        fingerprint=digits.train.fingerprint(),
        eps=EPS,
        seed=0,
        val_fraction=0.1,
        channel="main",
        version=7,
    )


@pytest.fixture(scope="module")
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.test.tensors()


@pytest.fixture(scope="module")
def student(digits: Dataset) -> nn.Module:
    """Train a student for seconds: better than chance is all that it has to be."""
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    x, y = digits.train.tensors()
    for _ in range(12):
        for part in torch.split(torch.randperm(len(x)), 64):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def files(
    student: nn.Module, card: ModelCard, digits: Dataset
) -> dict[str, OnnxStudent]:
    x, _ = digits.train.tensors()
    return {
        name: OnnxStudent(
            encode(
                student,
                card,
                format_of(name),
                student_sha256="ab" * 32,
                calibration=x[:64].numpy(),
            )
        )
        for name in ("onnx", "onnx-int8")
    }


def logits_of(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        answer: np.ndarray = model(x).numpy()
    return answer


@pytest.mark.parametrize("count", [1, 2, 300])
def test_the_file_answers_as_its_student_for_any_number_of_images(
    count: int,
    student: nn.Module,
    files: dict[str, OnnxStudent],
    images: tuple[Tensor, Tensor],
) -> None:
    x = images[0][:count]
    answer = files["onnx"].logits(x.numpy())
    assert np.allclose(answer, logits_of(student, x), atol=1e-4)


def test_int8_weights_are_bytes_and_the_classes_stay(
    student: nn.Module,
    card: ModelCard,
    files: dict[str, OnnxStudent],
    images: tuple[Tensor, Tensor],
) -> None:
    data = encode(
        student,
        card,
        "onnx-int8",
        student_sha256="",
        calibration=images[0][:64].numpy(),
    )
    kinds = {each.data_type for each in onnx.load_from_string(data).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    x = images[0]
    same = files["onnx-int8"].logits(x.numpy()).argmax(1) == logits_of(
        student, x
    ).argmax(1)
    assert same.mean() > 0.95


def test_the_file_says_what_it_is_and_of_which_student(
    files: dict[str, OnnxStudent], card: ModelCard
) -> None:
    for name, file in files.items():
        assert file.card.format == name
        assert file.card.model == card
        assert file.card.student_sha256 == "ab" * 32
        assert file.shape == (1, 8, 8)


def test_a_file_of_other_weights_is_measured_as_worse_and_refused(
    student: nn.Module, files: dict[str, OnnxStudent], images: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(1)
    other = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10).eval()
    x, y = images[0][:40], images[1][:40]
    same = measure(student, files["onnx"], x, y, num_attacked=4, eps=EPS, seed=0)
    require_as_good(same, "onnx")
    # The file is right, and so is worse by nothing; of another student it differs.
    figures = measure(other, files["onnx"], x, y, num_attacked=4, eps=EPS, seed=0)
    with pytest.raises(StudentError, match="logits differ by"):
        require_as_good(figures, "onnx")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean_after": 0.89}, "clean 90.0% -> 89.0%"),
        ({"robust_after": 0.48}, "robust 50.0% -> 48.0%"),
    ],
)
def test_a_drop_beyond_the_bounds_is_refused_with_the_figures(
    change: dict[str, float], words: str
) -> None:
    require_as_good(GOOD, "onnx-int8")
    with pytest.raises(StudentError, match="worse than its student") as e:
        require_as_good(dataclasses.replace(GOOD, **change), "onnx-int8")  # type: ignore[arg-type]
    assert words in str(e.value)
    require_as_good(
        dataclasses.replace(GOOD, **change),  # type: ignore[arg-type]
        "onnx-int8",
        bounds=Bounds(clean=0.02, robust=0.03),
    )


def test_of_few_images_one_may_be_lost_and_two_may_not() -> None:
    few = dataclasses.replace(GOOD, num_attacked=20, robust_after=0.45)
    require_as_good(few, "onnx-int8")
    with pytest.raises(StudentError):
        require_as_good(dataclasses.replace(few, robust_after=0.40), "onnx-int8")


def foreign(
    files: dict[str, OnnxStudent], student: nn.Module, card: ModelCard
) -> bytes:
    data = encode(student, card, "onnx", student_sha256="", calibration=NO_IMAGES)
    proto = onnx.load_from_string(data)
    del proto.metadata_props[:]
    return bytes(proto.SerializeToString())


def test_what_is_no_student_of_takt_is_refused_in_one_line(
    files: dict[str, OnnxStudent], student: nn.Module, card: ModelCard
) -> None:
    plain = foreign(files, student, card)
    for data in (b"", b"no ONNX at all", plain, plain[: len(plain) // 2]):
        with pytest.raises(StorageError, match="make it again") as e:
            OnnxStudent(data)
        assert "\n" not in str(e.value)


def test_an_unknown_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="expected one of onnx, onnx-int8"):
        format_of("tflite")


def test_the_script_on_the_page_answers_as_the_student(
    student: nn.Module, card: ModelCard, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    data = encode(student, card, "onnx", student_sha256="", calibration=NO_IMAGES)
    (tmp_path / "student.onnx").write_bytes(data)
    pixels = (images[0][0, 0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    page = (ROOT / "deploy" / "README.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", script, "student.onnx", "image.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (expected,) = logits_of(student, images[0][:1]).argmax(1)
    assert (done.stdout, done.stderr) == (f"{card.class_names[expected]}\n", "")
