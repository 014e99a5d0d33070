"""Bit-packed targets."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.model.batch import Batch, pack_bits, unpack_bits


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_packing_is_exact_for_any_size(n: int, h: int, w: int, seed: int) -> None:
    masks = np.random.default_rng(seed).integers(0, 2, (n, h, w)).astype(np.uint8)
    packed = pack_bits(masks)
    assert packed.shape == (n, -(-h * w // 8))
    assert torch.equal(unpack_bits(packed, h * w).view(n, h, w), torch.from_numpy(masks))


def test_cover_keeps_its_precision(batch: Callable[..., Batch]) -> None:
    made = batch((1,))
    cover = torch.full((1, 1, 9), 1 / 3)
    visual = replace(made.visual, cover=cover, valid=torch.ones(1, 1, dtype=torch.bool))
    moved = replace(made, visual=visual).to("cpu", torch.bfloat16)
    assert moved.visual.patches.dtype == moved.sam.dtype == torch.bfloat16
    assert moved.visual.cover is not None and torch.equal(moved.visual.cover, cover)
