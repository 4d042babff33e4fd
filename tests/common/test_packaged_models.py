"""Models of packages: what is asked of one, how torchvision's are adapted, files."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_packages import EXAMPLE_MODEL, installed, write_example, write_package
from small_runs import small_card
from torch import nn

from common.errors import ConfigError, StorageError
from common.models.contract import check_contract
from common.models.files import load_model, save_model
from common.models.zoo import build_model, num_macs

_FAULTY = """
import random
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, answer, **parts):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.answer = answer
        for name, part in parts.items():
            setattr(self, name, part)
    def forward(self, x):
        return self.answer(self, self.linear(x.flatten(1)), x)

def _net(answer, **parts):
    return lambda in_channels, image_size, num_classes: Net(answer, **parts)

fine = _net(lambda net, logits, x: logits)
softmax = _net(lambda net, logits, x: logits.softmax(1))
eleven = _net(lambda net, logits, x: F.pad(logits, (0, 1)))
pair = _net(lambda net, logits, x: (logits, x))
nan = _net(lambda net, logits, x: logits * float("nan"))
detached = _net(lambda net, logits, x: net.linear(x.detach().flatten(1)))
noisy = _net(lambda net, logits, x: logits + torch.rand_like(logits))
batchwise = _net(lambda net, logits, x: logits - logits.mean(0))
frozen = lambda **images: Net(lambda n, logits, x: logits).requires_grad_(False)
double = lambda **images: Net(lambda n, logits, x: logits).double()
def drawn(**images):
    net = Net(lambda n, logits, x: logits)
    nn.init.constant_(net.linear.bias, random.random())
    return net
def tied(**images):
    net = Net(lambda n, logits, x: logits)
    net.other = net.linear
    return net
class Replaces(Net):
    def __init__(self):
        super().__init__(lambda net, logits, x: logits)
        self.register_buffer("seen", torch.zeros(1))
    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return super().forward(x)
replaces = lambda **images: Replaces()
devices = []
def told(**images):
    net = Net(lambda n, logits, x: logits)
    devices.append(net.linear.weight.device.type)
    return net
raises = lambda **images: 1 / 0
no_module = lambda **images: 7
def strange(in_channels):
    return None
"""
_NAMES = (
    *("fine", "softmax", "eleven", "pair", "nan", "detached", "noisy", "batchwise"),
    *("frozen", "double", "drawn", "tied", "replaces", "raises", "no_module"),
    *("strange", "told"),
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the example, and a package whose models each have one fault."""
    folder = write_example(tmp_path_factory.mktemp("site"))
    write_package(folder, "faulty-nets", _FAULTY, *_NAMES)
    with installed(folder):
        yield folder


def check(name: str) -> None:
    check_contract(name, in_channels=1, image_size=8, num_classes=10)


def build(name: str, channels: int = 1, size: int = 8) -> nn.Module:
    return build_model(name, in_channels=channels, image_size=size, num_classes=10)


@pytest.mark.parametrize("name", [EXAMPLE_MODEL, "faulty-nets/fine", "cnn_tiny"])
@pytest.mark.usefixtures("packages")
def test_a_model_that_holds_to_the_contract_passes(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check(name)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("softmax", "returns probabilities, expected logits"),
        ("eleven", r"returns \(4, 11\) for 4 images of 10 classes, expected \(4, 10\)"),
        ("pair", "returns a tuple, expected a tensor of logits"),
        ("nan", "returns NaN or infinite logits"),
        ("detached", "gives no gradient for its input"),
        ("noisy", "answers differently to the same images in eval mode"),
        ("batchwise", "answers differently to an image alone and in a batch"),
        ("frozen", "has no parameter to train"),
        ("double", "as torch.float64, expected float32"),
        ("drawn", "begins with another 'linear.bias' each time"),
        ("tied", "in the memory of 'linear.weight'"),
        ("replaces", "replaces its buffer 'seen'"),
        ("raises", "cannot be built for 1x8x8 images of 10 classes: ZeroDivisionError"),
        ("no_module", "returned a int, expected a torch.nn.Module"),
        ("strange", "TypeError: .*unexpected keyword argument"),
    ],
)
@pytest.mark.usefixtures("packages")
def test_a_model_that_breaks_the_contract_is_refused_in_one_line(
    fault: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        check(f"faulty-nets/{fault}")
    message = str(error.value)
    assert message.startswith(f"model 'faulty-nets/{fault}' ") or "'takt." in message
    assert "\n" not in message


@pytest.mark.usefixtures("packages")
def test_a_model_too_large_to_ship_is_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match=r"has 1,300 bytes of .* at most 1,000;"):
        check_contract(
            "faulty-nets/fine",
            in_channels=1,
            image_size=8,
            num_classes=10,
            most_bytes=1000,
        )


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_torchvisions_mobilenet_answers_for_small_grey_and_colour_images(
    channels: int, size: int
) -> None:
    model = build("torchvision/mobilenet_v3_small", channels, size).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 10)


@pytest.mark.parametrize(("size", "pixels"), [(32, 4), (64, 4), (224, 7)])
def test_torchvisions_networks_end_with_a_map_of_some_pixels(
    size: int, pixels: int
) -> None:
    found = build("torchvision/mobilenet_v3_small", 3, size)
    features = found.get_submodule("net.features").eval()
    with torch.no_grad():
        assert features(torch.zeros(1, 3, size, size)).shape[2:] == (pixels, pixels)


def test_batch_statistics_of_torchvisions_networks_follow_in_tens_of_steps() -> None:
    model = build("torchvision/mobilenet_v3_small", 3, 32)  # there 0.01
    momenta = {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def test_a_residual_network_keeps_the_strides_that_have_a_path_around_them() -> None:
    model = build("torchvision/resnet18", 3, 8)
    strides = [
        m.stride for m in model.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)
    ]
    assert strides[:2] == [(1, 1), 1]
    assert strides.count((2, 2)) == 6  # of three blocks and their shortcuts


def test_macs_of_a_linear_layer_count_each_of_its_positions() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 3))  # of 5 channels
    assert num_macs(model, (5, 4, 4)) == 5 * 16 * 3


def test_a_network_that_does_not_take_so_small_images_says_so() -> None:
    words = "cannot be built for 1x8x8 images of 10 classes: .*indivisible by patch"
    with pytest.raises(ConfigError, match=words):
        check("torchvision/vit_b_32")


@pytest.mark.usefixtures("packages")
def test_a_packages_model_of_half_precision_comes_back_with_its_counters(
    tmp_path: Path,
) -> None:
    model = build(EXAMPLE_MODEL)
    model(torch.rand(4, 1, 8, 8))
    path = tmp_path / "m.safetensors"
    save_model(path, model.half(), small_card(architecture=EXAMPLE_MODEL))
    loaded, card = load_model(path)
    assert card.architecture == EXAMPLE_MODEL and not loaded.training
    assert int(loaded.state_dict()["norm.num_batches_tracked"]) == 1
    assert loaded.state_dict()["norm.running_mean"].dtype == torch.float32


def test_a_file_of_a_package_that_is_gone_is_refused_by_the_packages_name(
    tmp_path: Path, packages: Path
) -> None:
    path = tmp_path / "m.safetensors"
    model = build(EXAMPLE_MODEL)
    save_model(path, model, small_card(architecture=EXAMPLE_MODEL))
    sys.path.remove(str(packages))
    try:
        with pytest.raises(StorageError, match="of package 'takt-example-models', wh"):
            load_model(path)
    finally:
        sys.path.insert(0, str(packages))


@pytest.mark.usefixtures("packages")
def test_a_file_of_another_version_of_its_package_names_the_installed_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.safetensors"
    model = nn.Sequential(nn.Linear(64, 10))
    save_model(path, model, small_card(architecture=EXAMPLE_MODEL))
    with pytest.raises(StorageError, match=r"than takt-example-models 1[.]0 has"):
        load_model(path)


@pytest.mark.usefixtures("packages")
def test_a_file_with_other_tensors_is_refused_before_its_model_takes_memory(
    tmp_path: Path,
) -> None:
    import faulty_nets  # type: ignore[import-not-found]

    path = tmp_path / "m.safetensors"
    save_model(path, nn.Linear(2, 2), small_card(architecture="faulty-nets/told"))
    faulty_nets.devices.clear()
    with pytest.raises(StorageError, match="'bias' is no tensor of the architecture"):
        load_model(path)
    assert faulty_nets.devices == ["meta"]
