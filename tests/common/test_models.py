"""Models: sizes, repeatable weights, and files that are whole or refused."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_runs import small_card
from torch import nn

from common.catalog import ARCHITECTURES
from common.errors import ConfigError, StorageError
from common.models import zoo
from common.models.card import ModelCard
from common.models.files import load_model, save_model
from common.models.forward import Standardize
from common.models.zoo import build_model, num_macs, num_parameters

CNNS = ("cnn_tiny", "cnn_small", "cnn_medium", "cnn_large")
STUDENTS = CNNS[:3]


def _build(name: str = "cnn_tiny", channels: int = 1, size: int = 8) -> nn.Module:
    return build_model(name, in_channels=channels, image_size=size, num_classes=10)


@pytest.fixture
def card() -> ModelCard:
    return small_card(seed=3)


# name: on 8x8, on 28x28; what students of these sizes are chosen for
@pytest.mark.parametrize(
    ("name", "on_digits", "on_mnist"),
    [
        ("cnn_tiny", 1_000, 5_000),
        ("cnn_small", 5_000, 30_000),
        ("cnn_medium", 21_000, 166_000),
        ("cnn_large", 400_000, 400_000),
    ],
)
def test_a_model_stays_within_the_size_that_its_name_stands_for(
    name: str, on_digits: int, on_mnist: int
) -> None:
    assert on_digits / 2.6 < num_parameters(_build(name)) <= on_digits
    assert on_mnist / 2.6 < num_parameters(_build(name, size=28)) <= on_mnist


def test_the_table_in_the_docstring_is_true() -> None:
    sizes = [(1, 8), (1, 28), (3, 32)]
    unit = {"k": 1e3, "M": 1e6, "G": 1e9}
    told = set()
    for line in (zoo.__doc__ or "").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name not in ARCHITECTURES:
            continue
        told.add(name)
        cells = re.findall(r"([\d,]+) \(([\d.]+) (\w)\)", rest)
        assert cells, line
        for (channels, size), cell in zip(sizes[-len(cells) :], cells, strict=True):
            model = _build(name, channels, size)
            assert int(cell[0].replace(",", "")) == num_parameters(model)
            macs = num_macs(model, (channels, size, size))
            assert float(cell[1]) * unit[cell[2]] == pytest.approx(macs, rel=0.06)
    assert told == set(ARCHITECTURES)


@pytest.mark.parametrize("name", [*CNNS, "resnet8", "mobilenet_v2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 65)])
def test_logits_come_out_for_images_of_any_size(
    name: str, channels: int, size: int
) -> None:
    logits = _build(name, channels, size)(torch.rand(2, channels, size, size))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet8", 75_290),  # Heo et al., AAAI 2019, the authors' code
        ("resnet20", 270_000),  # He et al., CVPR 2016, table 6: 0.27 million
        ("mobilenet_v2", 2_236_682),  # torchvision's, for ten classes
        ("resnet18", 11_172_000),
    ],
)
def test_a_known_network_has_the_parameters_that_its_papers_give_it(
    name: str, published: int
) -> None:
    assert num_parameters(_build(name, 3, 32)) == pytest.approx(published, rel=0.002)


def test_mobilenet_differs_from_torchvisions_by_two_strides_alone() -> None:
    from torchvision.models import mobilenet_v2

    other = mobilenet_v2(num_classes=10, dropout=0.0)
    other.features[0][0].stride = (1, 1)
    other.features[2].conv[1][0].stride = (1, 1)
    own = _build("mobilenet_v2", 3, 32)
    values = list(own.state_dict().values())
    names = list(other.state_dict())
    other.load_state_dict(dict(zip(names, values, strict=True)))
    x = torch.rand(2, 3, 32, 32)
    centred = Standardize(3)(x)
    assert torch.allclose(own.eval()(x), other.eval()(centred), atol=1e-5)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_smallest_students_hold_no_batch_statistics(name: str) -> None:
    model = _build(name)
    assert not list(model.buffers())
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_weights_follow_the_global_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in _build().parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"'cnn_huge'; expected one of .*cnn_tiny"):
        _build("cnn_huge")


def test_macs_are_kernel_times_positions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(80, 7)
    )
    assert num_macs(model, (3, 8, 8)) == 3 * 5 * 9 * 16 + 80 * 7


def test_counting_macs_leaves_a_training_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    num_macs(model, (1, 8, 8))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_saved_model_comes_back_with_its_card_in_eval_mode(
    tmp_path: Path, card: ModelCard
) -> None:
    model = _build()
    digest = save_model(tmp_path / "new" / "m.safetensors", model, card)
    loaded, found = load_model(tmp_path / "new" / "m.safetensors")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert found == card
    assert not loaded.training
    data = (tmp_path / "new" / "m.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest


def test_a_resnet_with_its_batch_statistics_comes_back(
    tmp_path: Path, card: ModelCard
) -> None:
    changes = {"architecture": "resnet18", "in_channels": 3, "image_size": 32}
    model = _build("resnet18", 3, 32)
    model(torch.rand(4, 3, 32, 32))  # moves the statistics
    save_model(tmp_path / "m.safetensors", model, card.model_copy(update=changes))
    loaded, _ = load_model(tmp_path / "m.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))


@pytest.mark.parametrize("name", ["cnn_tiny", "resnet8"])
def test_a_model_of_half_precision_comes_back_in_single_precision(
    tmp_path: Path, name: str
) -> None:
    model = build_model(name, in_channels=1, image_size=8, num_classes=10).half()
    save_model(tmp_path / "m.safetensors", model, small_card(architecture=name))
    loaded, _ = load_model(tmp_path / "m.safetensors")
    found = loaded.state_dict()
    for key, value in model.state_dict().items():
        assert found[key].dtype in (torch.float32, torch.int64)
        assert torch.equal(found[key], value.to(found[key].dtype))


def test_the_same_weights_make_the_same_file(tmp_path: Path, card: ModelCard) -> None:
    model = _build()
    digests = {save_model(tmp_path / f"{k}", model, card) for k in range(5)}
    assert len(digests) == 1


def test_the_card_is_readable_by_any_safetensors_reader(
    tmp_path: Path, card: ModelCard
) -> None:
    save_model(tmp_path / "m.safetensors", _build(), card)
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert json.loads(file.metadata()["takt.card"])["dataset"] == "digits"


def _flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: _flip(data, 20),
        lambda data: _flip(data, len(data) - 1),  # bit rot in a weight
        lambda data: data.replace(b"cnn_tiny", b"cnn_huge"),
        lambda data: data.replace(b"cnn_tiny", b"resnet18"),
        lambda data: b"\x80\x04}q\x00.",  # a pickle
    ],
)
def test_a_damaged_model_file_is_refused_in_one_line(
    tmp_path: Path, card: ModelCard, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, _build(), card)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        load_model(tmp_path / "none.safetensors")


def test_a_model_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    old = save_model(path, _build(), card)
    monkeypatch.setenv("TAKT_FAULT", "model.before_rename:enospc")
    with pytest.raises(StorageError, match="No space left"):
        save_model(path, _build(), card, point="model")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == old


def test_a_model_below_a_file_is_a_storage_error(
    tmp_path: Path, card: ModelCard
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot make folder"):
        save_model(tmp_path / "file" / "m.safetensors", _build(), card)
