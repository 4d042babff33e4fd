"""Signs of deltas, packed: torch packs them as numpy does."""

import pytest
import torch

from edge.distill.fitting.delta_memory import (
    pack,
    pack_by_torch,
    unpack,
    unpack_by_torch,
)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (3, 40, 40)])
def test_torch_packs_and_unpacks_signs_as_numpy_does(
    shape: tuple[int, int, int],
) -> None:
    delta = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    packed = pack(delta)
    assert torch.equal(pack_by_torch(delta), packed)
    assert torch.equal(unpack_by_torch(packed, shape), unpack(packed, shape))
    assert torch.equal(unpack(packed, shape), delta.sign())
