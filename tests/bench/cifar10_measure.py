"""How robust the models of `cifar10_gpu.py` are: PGD, AutoAttack, and the rows of both.

A step each, as there. Not here: training them.
"""

import json
import time
from pathlib import Path

import torch
from cifar10_site import Site
from rows import Row, read_rows, write_rows

from common.durable import write_atomic
from common.models.files import load_model
from common.models.zoo import num_parameters
from common.robustness.evaluate import autoattack, clean_accuracy, robust_accuracy_pgd


def pgd(site: Site) -> bool:
    """Measure clean accuracy and PGD, which takes seconds; True when done."""
    x, y = site.data().test.tensors()
    for number, name in enumerate(site.models):
        file = site.work / f"pgd-{name}.json"
        if not site.is_mine(number) or file.exists():
            continue
        if site.is_over():
            return False
        model, card = load_model(site.weights(name))
        model.to(site.device)
        total = site.options.images
        robust = robust_accuracy_pgd(
            model,
            x[:total],
            y[:total],
            attack=site.config.evaluation.node_attack,
            eps=card.eps,
            seed=0,
        )
        clean = clean_accuracy(model, x, y)
        tree = {"clean_accuracy": clean} | robust.model_dump(mode="json")
        write_atomic(file, json.dumps(tree).encode())
        print(name, f"clean {clean:.4f}, PGD {robust.accuracy:.4f}", flush=True)
    return True


def _chunks(site: Site) -> list[tuple[str, int, int, Path]]:
    """List what AutoAttack has to do: model, first and last image, and its file."""
    found = []
    for first in range(0, site.options.images, site.options.chunk):
        stop = min(first + site.options.chunk, site.options.images)
        for name in site.models:
            file = site.work / f"attacked-{name}-{first}-{stop}.json"
            found.append((name, first, stop, file))
    return found


def attack(site: Site) -> bool:
    """Measure with AutoAttack, some images of each model in turn; True when done."""
    x, y = site.data().test.tensors()
    for number, (name, first, stop, file) in enumerate(_chunks(site)):
        if not site.is_mine(number) or file.exists():
            continue
        if site.is_over():
            return False
        model, card = load_model(site.weights(name))
        model.to(site.device).to(memory_format=torch.channels_last)
        began, part = time.monotonic(), slice(first, stop)
        found = autoattack(model, x[part], y[part], eps=card.eps, seed=0)
        write_atomic(file, found.model_dump_json().encode())
        took = f"{time.monotonic() - began:.0f} s"
        print(name, first, found.accuracy, took, flush=True)
    return True


def rows(site: Site) -> bool:
    """Write a row for each model and attack, of the images that were attacked."""
    for name in site.models:
        by_pgd = json.loads((site.work / f"pgd-{name}.json").read_bytes())
        files = [file for of, _, _, file in _chunks(site) if of == name]
        parts = [json.loads(file.read_bytes()) for file in files if file.exists()]
        model, card = load_model(site.weights(name))
        about: Row = {
            "dataset": "cifar10",
            "name": name,
            "architecture": card.architecture,
            "method": card.method,
            "num_parameters": num_parameters(model),
            "num_train": site.manifest().num_samples,
            "clean_accuracy": by_pgd["clean_accuracy"],
            **json.loads(site.training_summary(name).read_bytes()),
        }
        kept = [r for r in read_rows(site.out) if r["name"] != name]
        mine = [about | _together(p) for p in ([by_pgd], parts) if p]
        write_rows(site.out, [*kept, *mine])
        for row in mine:
            print(row, flush=True)
    return True


def _together(parts: list[Row]) -> Row:
    """Join evaluations of different images into columns of a row."""
    total = sum(part["num_images"] for part in parts)
    robust = sum(part["accuracy"] * part["num_images"] for part in parts) / total
    flags = sorted({flag for part in parts for flag in part["flags"]})
    same = {key: parts[0][key] for key in ("attack", "version", "norm", "eps")}
    return {"robust_accuracy": robust, "num_images": total, **same, "flags": flags}
