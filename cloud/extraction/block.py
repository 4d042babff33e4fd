"""Teacher -> knowledge of one block of samples: a pure function of both.

A node trains on what it can decode, so the teacher's logits at a boundary point are
taken at the *decoded*, dequantised one. Not here: which samples form a block
(`cloud.extraction.job`), shards and Ray (`cloud.extraction.worker`).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud.extraction.boundary import boundary_points
from common.catalog import Content
from common.config import AttackConfig, KnowledgeConfig
from common.release import (
    Arrays,
    dequantize_rows,
    pack_signs,
    quantize_rows,
)
from common.robustness.attacks import pgd


def extract_block(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    config: KnowledgeConfig,
    eps: float,
    seed: int,
) -> dict[Content, Arrays]:
    """Compute everything that a release holds about these samples.

    Args:
        model: the teacher, in eval mode, on the device of x.
        x: (n, C, H, W) in [0, 1].
        y: labels (n,).
        config: contents, attack and boundary search.
        eps: radius of the threat model, pixel scale.
        seed: of the attack's starts and the boundary's targets.

    Returns:
        For each content the arrays of `common.release.shard_layout`.
    """
    makers: dict[Content, Callable[[], Arrays]] = {
        "soft_labels": lambda: view_labels(model, x),
        "deltas": lambda: {
            "delta_signs": _delta_signs(model, x, y, config.attack, eps, seed)
        },
        "boundary_points": lambda: _boundary_points(model, x, config, seed),
    }
    return {content: makers[content]() for content in config.contents}


def view_labels(model: nn.Module, view: Tensor) -> Arrays:
    """Compute the teacher's soft labels of one view of some samples.

    Args:
        model: the teacher, in eval mode, on the device of the view.
        view: (n, C, H, W) in [0, 1], as `common.data.views.show` shows it.

    Returns:
        The arrays of soft_labels in `common.release.shard_layout`.
    """
    logits, scale = quantize_rows(_logits(model, view))
    return {"logits": logits, "logits_scale": scale}


def _delta_signs(
    model: nn.Module, x: Tensor, y: Tensor, attack: AttackConfig, eps: float, seed: int
) -> NDArray[np.uint8]:
    x_adv = pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=attack.step_size,
        steps=attack.steps,
        random_start=attack.random_start,
        restarts=attack.restarts,
        generator=_generator(x, seed),
    )
    # A white pixel has delta 0, because it cannot grow; its sign is + as well.
    up = (x_adv > x) | (x_adv >= 1)
    return pack_signs(np.where(up.cpu().numpy(), np.float32(1), np.float32(-1)))


def _boundary_points(
    model: nn.Module, x: Tensor, config: KnowledgeConfig, seed: int
) -> Arrays:
    moved, _ = boundary_points(
        model,
        x,
        steps=config.boundary_steps,
        step_size=config.boundary_step_size,
        generator=_generator(x, seed + 1),
    )
    delta, delta_scale = quantize_rows((moved - x).cpu().numpy())
    decoded = torch.from_numpy(dequantize_rows(delta, delta_scale)).to(x.device)
    logits, scale = quantize_rows(_logits(model, (x + decoded).clamp(0, 1)))
    return {
        "boundary_delta": delta,
        "boundary_delta_scale": delta_scale,
        "boundary_logits": logits,
        "boundary_logits_scale": scale,
    }


def _logits(model: nn.Module, x: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits.float().cpu().numpy()


def _generator(x: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(x.device).manual_seed(seed % 2**63)
