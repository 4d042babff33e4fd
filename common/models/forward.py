"""Mixed precision: a model's answers on a GPU, in half the bytes.

bfloat16 where it does no harm, chosen by torch.autocast (Micikevicius et al., ICLR
2018, with fp16), and channels last, the layout of the tensor cores. On a CPU nothing
changes. Not here: evaluations, which stay in float32.
"""

import torch
from torch import Tensor

from common.robustness.attacks import Model


def mixed(model: Model, device: torch.device) -> Model:
    """Wrap x (N, C, H, W) -> logits (N, K), which are float32 in any case."""
    if device.type != "cuda":
        return model

    def answer(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    return answer
