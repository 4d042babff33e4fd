"""Answers on a node: the promoted student's, from its ONNX file, without torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from edge_site import edge_site, recipe
from PIL import Image
from small_runs import small_card
from typer.testing import CliRunner

from common.config import TuningConfig
from common.data.datasets import Dataset
from common.errors import DataError, StorageError, StudentError
from common.export.card import Format
from common.export.encode import encode
from common.models.files import load_model, save_model
from common.models.zoo import build_model
from deploy.cli.edge import app
from edge.daemon import NodeDaemon
from edge.predict import Predictor, images_of, new_images
from edge.state import Current, Promoted, StateDir, Status, sha256_of

CLASSES = small_card().class_names


class Node:
    """A state folder whose students are made here."""

    def __init__(self, root: Path) -> None:
        """Make the folder, empty."""
        self.state = StateDir(root)
        self.state.create()

    def promote(
        self, version: int, *, seed: int = 0, formats: tuple[Format, ...] = ("onnx",)
    ) -> Promoted:
        """Let a random student of a seed serve, exported in some formats."""
        torch.manual_seed(seed)
        model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
        folder = self.state.students / str(version)
        sha256 = save_model(folder / "student.safetensors", model, small_card())
        promoted = Promoted(
            channel="main",
            version=version,
            student="tiny",
            folder=str(version),
            weights_sha256=sha256,
            dataset="digits",
            fingerprint="0" * 64,
            eps=0.15,
            clean_accuracy=0.5,
            robust=(),
        )
        for format in formats:
            data = encode(
                model.eval(),
                small_card(),
                format,
                student_sha256=sha256,
                calibration=np.random.default_rng(0)
                .random((8, 1, 8, 8))
                .astype(np.float32),
            )
            self.state.exported_file(promoted, format).write_bytes(data)
        self.serve(promoted)
        return promoted

    def serve(self, promoted: Promoted) -> None:
        current = Current(channel="main", version=promoted.version, promoted=promoted)
        self.state.write_current(current)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    node = Node(tmp_path_factory.mktemp("node"))
    node.promote(2, seed=1)
    node.promote(1, seed=0, formats=("onnx", "onnx-int8"))
    return node


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return drawn(tmp_path / "image.png", seed=0)


def drawn(path: Path, *, seed: int, size: int = 8) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_thousand_answers_are_those_of_the_student_in_torch(
    node: Node, digits: Dataset, tmp_path: Path
) -> None:
    predictor = Predictor(node.state, "onnx")
    promoted = node.state.read_current().promoted
    assert promoted is not None
    model, card = load_model(node.state.student_file(promoted))
    images = np.concatenate([digits.test.images, digits.train.images])[:1000]
    assert len(images) == 1000
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float() / 255)
    odds, classes = logits.softmax(1).max(1)
    top = logits.topk(2).values
    path = tmp_path / "one.png"
    for place, pixels in enumerate(images):
        Image.fromarray(pixels[0]).save(path)
        answer = predictor.predict(path)
        margin = float(top[place, 0] - top[place, 1])
        assert answer.margin == pytest.approx(margin, abs=1e-3)
        assert answer.probability == pytest.approx(float(odds[place]), abs=1e-3)
        if margin > 1e-3:  # nearer ones are a draw, which rounding decides
            assert answer.class_name == card.class_names[classes[place]]
    assert float((top[:, 0] - top[:, 1] > 1e-3).double().mean()) > 0.99


def test_int8_comes_first_where_it_is_there(node: Node, image: Path) -> None:
    assert Predictor(node.state).predict(image).format == "onnx-int8"


def test_images_of_any_size_and_mode_are_answered(node: Node, tmp_path: Path) -> None:
    predictor = Predictor(node.state)
    for mode, size in (("RGB", (31, 17)), ("RGBA", (8, 8)), ("P", (64, 64))):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, size).save(path)
        assert predictor.predict(path).class_name in CLASSES


def test_a_photo_that_its_camera_turned_is_answered_upright(
    node: Node, tmp_path: Path
) -> None:
    predictor = Predictor(node.state, "onnx")
    upright = Image.open(drawn(tmp_path / "upright.png", seed=3))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    turned.save(tmp_path / "plain.png")
    margins = [
        predictor.predict(tmp_path / f"{name}.png").margin
        for name in ("upright", "turned", "plain")
    ]
    assert margins[0] == margins[1] != margins[2]


def test_a_new_student_is_taken_up_between_two_answers_and_an_old_one_again(
    node: Node, image: Path
) -> None:
    first = node.state.read_current().promoted
    assert first is not None
    predictor = Predictor(node.state)
    assert predictor.predict(image).version == 1
    second = first.model_copy(update={"version": 2, "folder": "2"})
    other = sha256_of(node.state.student_file(second))
    node.serve(second.model_copy(update={"weights_sha256": other}))
    assert predictor.predict(image).version == 2
    node.serve(first)
    assert predictor.predict(image).version == 1


def test_a_file_of_another_student_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    made = node.promote(1)
    changed = small_card().model_copy(update={"seed": 9})
    model, _ = load_model(node.state.student_file(made))
    sha256 = save_model(node.state.student_file(made), model, changed)
    node.serve(made.model_copy(update={"weights_sha256": sha256}))
    with pytest.raises(StorageError, match="made of another student"):
        Predictor(node.state)


def test_without_a_student_it_says_what_the_node_is_doing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(StudentError, match="no daemon ran there yet"):
        Predictor(node.state)
    node.state.write_status(Status(node="porch", state="distilling"))
    with pytest.raises(StudentError, match="node porch is distilling"):
        Predictor(node.state)


def test_a_student_that_was_not_exported_says_how_to_do_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.promote(1, formats=())
    with pytest.raises(StudentError, match="takt edge export"):
        Predictor(node.state)


def test_folders_are_searched_and_an_empty_one_is_named(tmp_path: Path) -> None:
    drawn(tmp_path / "b.png", seed=0)
    (tmp_path / "deep").mkdir()
    drawn(tmp_path / "deep" / "a.png", seed=0)
    (tmp_path / "notes.txt").write_text("no image")
    names = sorted(Path(name).name for _, name in images_of([tmp_path]))
    assert names == ["a.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        list(images_of([tmp_path / "empty"]))


def test_a_watched_image_is_answered_once_and_only_when_it_is_whole(
    tmp_path: Path,
) -> None:
    drawn(tmp_path / "before.png", seed=0)
    whole = drawn(tmp_path / "new.tmp.png", seed=1).read_bytes()
    (tmp_path / "new.tmp.png").unlink()
    new = tmp_path / "new.png"
    writes = [whole[:20], whole[:40], whole, whole, whole]

    def wait(_: float) -> None:
        if not writes:
            raise KeyboardInterrupt
        new.write_bytes(writes.pop(0))

    watched = new_images(tmp_path, wait=wait)
    assert next(watched) == new
    assert new.read_bytes() == whole
    with pytest.raises(KeyboardInterrupt):  # nothing more until it was stopped
        next(watched)


def cli(node: Node, folder: Path, *arguments: str, given: bytes = b"") -> list[str]:
    config = folder / "edge.toml"
    config.write_text(
        f'node = "porch"\nstudent = "tiny"\ngateway = "127.0.0.1:1"\n'
        f'state_dir = "{node.state.root}"\n'
        "[profile]\ncpus = 1.0\nmemory_mib = 500\nbandwidth_kib_s = 64\n"
    )
    done = CliRunner().invoke(
        app, ["predict", "-c", str(config), *arguments], input=given
    )
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_the_verb_answers_files_and_standard_input_as_lines_or_json(
    node: Node, image: Path, tmp_path: Path
) -> None:
    (line,) = cli(node, tmp_path, str(image))
    assert line.startswith(f"{image}: ") and "(main v1, onnx-int8)" in line
    (line,) = cli(node, tmp_path, "-", "--json", given=image.read_bytes())
    answer = json.loads(line)
    assert (answer["image"], answer["version"]) == ("-", 1)


STEERING = "a\x1b[2J\nb: cat, probability 1.png"


def test_a_files_name_neither_steers_the_terminal_nor_makes_an_answer_of_its_own(
    node: Node, tmp_path: Path
) -> None:
    (line,) = cli(node, tmp_path, str(drawn(tmp_path / STEERING, seed=0)))
    assert line.isprintable()
    assert r"a\x1b[2J\nb: cat, probability 1.png: " in line
    image = drawn(tmp_path / STEERING, seed=0)
    (as_json,) = cli(node, tmp_path, str(image), "--json")
    assert json.loads(as_json)["image"] == str(image)


def test_a_watched_file_that_is_no_image_is_named_on_one_line(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STEERING).write_bytes(b"no image")
    monkeypatch.setattr(
        "edge.predict.new_images", lambda folder: iter([folder / STEERING])
    )
    (line,) = cli(node, tmp_path, "--watch", str(tmp_path))
    assert line.startswith("takt: ") and line.isprintable()


def test_predicting_loads_no_torch(node: Node, image: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from edge.predict import Predictor\nfrom edge.state import StateDir\n"
        f"Predictor(StateDir(Path({str(node.state.root)!r}))).predict("
        f"Path({str(image)!r}))\n"
        "print({'torch', 'sklearn', 'ray', 'onnx'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_a_node_exports_what_it_promotes_and_answers_with_it(tmp_path: Path) -> None:
    tuning = TuningConfig(learning_rate=1.0, epochs=60)
    students = {"tiny": recipe(label_weight=0.3, learning_rate=0.3, tuning=tuning)}
    with edge_site(tmp_path / "site") as site:
        site.publish_transfer(num_images=300, num_val=40, students=students)
        config = site.join("sensor", export=("onnx", "onnx-int8"))
        current = NodeDaemon(config).once()
    assert current.outcome == "promoted", current.message
    assert "onnx-int8: clean" in current.message
    assert "; 0 images of them the node's own" in current.message
    image = drawn(tmp_path / "image.png", seed=0)
    state = StateDir(config.state_dir)
    for format in ("onnx", "onnx-int8"):
        assert Predictor(state, format).predict(image).class_name in CLASSES


@pytest.mark.slow
def test_a_node_measures_its_export_on_its_own_images_as_well(tmp_path: Path) -> None:
    tuning = TuningConfig(learning_rate=1.0, epochs=60)
    students = {"tiny": recipe(label_weight=0.3, learning_rate=0.3, tuning=tuning)}
    with edge_site(tmp_path / "site") as site:
        site.publish_transfer(num_images=300, num_val=40, students=students)
        config = site.join("sensor", export=("onnx",), data={"images": 100})
        current = NodeDaemon(config).once()
    assert current.promoted is not None, current.message
    counted = re.search(r"of (\d+) images, .*; (\d+) images of them", current.message)
    assert counted is not None, current.message
    num_measured, num_own = map(int, counted.groups())
    assert num_own >= 10 and num_measured == 40 + num_own
