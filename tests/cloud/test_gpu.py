"""Stage 1 and a student on a GPU: bf16, compiled, and no gradients but those wanted."""

from pathlib import Path

import pytest
import torch
from small_runs import TINY_ATTACK, tiny_run
from torch import Tensor, nn

from cloud.training.objectives import craft_against_labels, frozen
from cloud.training.teacher import EpochReport, TeacherRun, fit_teacher
from common.config import StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.models.zoo import build_model
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import fit_student
from edge.distill.task import Task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_run().dataset, seed=0)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_teacher_learns_on_the_gpu(is_compiled: bool, dataset: Dataset) -> None:
    config = tiny_run(compile=is_compiled, epochs=6, ema_decay=0.9, awp_gamma=0.005)
    reports: list[EpochReport] = []
    run = fit_teacher(
        config, dataset, device=GPU, after_epoch=lambda _, r: reports.append(r)
    )
    model = run.best_model()
    assert reports[-1].clean_accuracy > 0.6
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_images_and_weights_are_laid_out_for_the_gpu(dataset: Dataset) -> None:
    run = TeacherRun(tiny_run(), dataset, device=GPU)
    seen: list[tuple[bool, torch.dtype]] = []

    def watch(model: nn.Module, arguments: tuple[Tensor], answer: Tensor) -> None:
        (x,) = arguments
        seen.append((x.is_contiguous(memory_format=torch.channels_last), answer.dtype))

    run.model.register_forward_hook(watch)
    run.step(torch.arange(32, device=GPU), 0.0, torch.Generator(GPU).manual_seed(0))
    assert set(seen) == {(True, torch.bfloat16)}


def test_a_compiled_attack_takes_less_memory_with_the_weights_frozen() -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", in_channels=3, image_size=32, num_classes=10)
    model = model.to(GPU).eval()
    net = torch.compile(model)
    x, y = torch.rand(256, 3, 32, 32, device=GPU), torch.arange(256, device=GPU) % 10

    def peak_mib() -> float:
        for _ in range(2):  # the first compiles
            torch.cuda.reset_peak_memory_stats()
            craft_against_labels(
                net, x, y, eps=0.03, attack=TINY_ATTACK, generator=torch.Generator(GPU)
            )
        return torch.cuda.max_memory_allocated() / 2**20

    with frozen(list(model.parameters())):
        alone = peak_mib()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert alone < peak_mib()


def test_a_student_learns_on_the_gpu_and_goes_on_from_its_checkpoint(
    dataset: Dataset, tmp_path: Path
) -> None:
    recipe = StudentConfig(
        model="cnn_tiny", method="warm_at", attack=TINY_ATTACK, epochs=30
    )
    train, val = Images.of(dataset.train), Images.of(dataset.val)
    task = Task(train=train, val=val, num_classes=10, eps=0.15, device=GPU)
    file = CheckpointFile(tmp_path / "state.safetensors")
    fitted = [
        fit_student(recipe, task, checkpoint=file)
        for _ in range(2)  # the second finds itself done
    ]
    assert fitted[0].curve[-1].clean_accuracy is not None
    assert fitted[0].curve[-1].clean_accuracy > 0.6
    assert fitted[1].curve == fitted[0].curve
