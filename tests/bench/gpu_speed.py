"""How fast stage 1 and a student train on this GPU: images a second, side by side.

    .venv/bin/python tests/bench/gpu_speed.py [--out FILE]

Steps of TRADES with AWP, of ResNet-18 and of a wide network: in float32, in bfloat16
with channels last as takt does it, and compiled. Images are random: no figure here is
of what is learnt. Results go to results/gpu-speed.json.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from rows import write_rows

from cloud.training.teacher import TeacherRun
from common.config import AttackConfig, RunConfig, StudentConfig
from common.data.datasets import Dataset, Split
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.training import Training
from edge.distill.task import Task

RESULTS = Path(__file__).parent / "results" / "gpu-speed.json"
BATCH = 256
ROUNDS, STEPS = 5, 4  # rounds are timed, medians taken


def random_images(count: int) -> Split:
    """Draw images and labels."""
    random = np.random.default_rng(0)
    shape = (count, 3, 32, 32)
    return Split(
        random.integers(0, 256, shape, np.uint8), random.integers(0, 10, count)
    )


def teacher_speed(model: str, kind: str, device: torch.device) -> dict[str, object]:
    """Time steps of a teacher; the first, which compiles, apart."""
    overrides = {
        "teacher.model": model,
        "teacher.awp_gamma": 0.005,
        "teacher.batch_size": BATCH,
        "teacher.attack": {"steps": 5, "step_size": "3/255"},
        "teacher.compile": kind == "compiled",
    }
    config: RunConfig = load_run_config("cifar10", overrides)[0]
    part = random_images(BATCH)
    names = tuple("0123456789")
    run = TeacherRun(config, Dataset("cifar10", names, part, part, part), device=device)
    if kind == "float32":
        run.forward = run.model
    generator = torch.Generator(device).manual_seed(0)
    chosen = torch.arange(BATCH, device=device)

    def steps(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            run.step(chosen, 1.0, generator)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    first = steps(2)
    took = statistics.median(steps(STEPS) for _ in range(ROUNDS)) / STEPS
    return {
        "model": model,
        "what": "teacher, TRADES with AWP, 5 steps",
        "kind": kind,
        "batch_size": BATCH,
        "images_per_s": round(BATCH / took),
        "step_ms": round(1000 * took, 1),
        "first_two_steps_s": round(first, 1),
        "peak_mib": torch.cuda.max_memory_allocated() // 2**20,
    }


def student_speed(model: str, method: str, device: torch.device) -> dict[str, object]:
    """Time steps of a student without a teacher: warm_at's are takt's."""
    steps = 2 if method == "warm_at" else 10
    recipe = StudentConfig(
        model=model,
        method=method,
        attack=AttackConfig(steps=steps, step_size=0.01),
        epochs=100,
        batch_size=BATCH,
    )
    images = Images.of(random_images(8 * BATCH))
    training = Training(
        recipe,
        Task(train=images, val=images, num_classes=10, eps=8 / 255, device=device),
        clock=time.perf_counter,
    )

    def run(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(count):
            training.step(torch.arange(i % 8 * BATCH, (i % 8 + 1) * BATCH))
        torch.cuda.synchronize()
        return time.perf_counter() - began

    run(4)
    took = statistics.median(run(STEPS) for _ in range(ROUNDS)) / STEPS
    return {
        "model": model,
        "what": f"student, {method}, {steps} steps",
        "kind": "bfloat16",
        "batch_size": BATCH,
        "images_per_s": round(BATCH / took),
        "step_ms": round(1000 * took, 1),
    }


def main() -> None:
    """Time everything, and write it down as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--compile", nargs="*", default=["resnet18"], help="models")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        raise SystemExit("this bench needs a GPU")
    rows: list[dict[str, object]] = []

    def add(row: dict[str, object]) -> None:
        rows.append(row | {"device": torch.cuda.get_device_name()})
        print(rows[-1], flush=True)
        write_rows(options.out, rows)

    for kind in ("bfloat16", "float32"):
        add(teacher_speed("resnet18", kind, device))
    for model in ("resnet18", "mobilenet_v2", "resnet20"):
        for method in ("warm_at", "pgd_at"):
            add(student_speed(model, method, device))
    add(teacher_speed("wrn_28_10", "bfloat16", device))
    for model in options.compile:
        add(teacher_speed(model, "compiled", device))


if __name__ == "__main__":
    main()
