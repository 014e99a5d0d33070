"""The two ways of attending with relative positions, against softmax(q k + bias) v in double."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svp.pipeline.sam.image_encoder import with_key_channels, with_mask
from svp.pipeline.sam.segment_anything import SamPackage

SHAPES = [(3, 2, 14, 14, 16), (1, 2, 16, 16, 80), (1, 1, 5, 9, 8)]


def inputs(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    batch, heads, height, width, channels = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(height * width, channels)] * 3 + [(height, width, height), (height, width, width)]
    return [torch.randn((batch, heads, *s), generator=generator).to(dtype) for s in sizes]


def plain(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Query at (y, x), key at (r, c): q k / sqrt(D) + by_row[y,x,r] + by_column[y,x,c]."""
    scores = (q @ k.mT * q.shape[-1] ** -0.5).unflatten(-1, (by_row.shape[-1], -1))
    scores = scores.unflatten(2, by_row.shape[2:4])
    bias = by_row[..., :, None] + by_column[..., None, :]
    return (scores + bias).flatten(-2).flatten(2, 3).softmax(-1) @ v


@pytest.mark.parametrize("attend", [with_mask, with_key_channels])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ways_equal_the_plain_formula(
    shape: tuple[int, int, int, int, int], attend: Callable[..., Tensor]
) -> None:
    found = attend(*inputs(shape, torch.float32), shape[-1] ** -0.5)
    assert (found - plain(*inputs(shape, torch.float64))).abs().max() < 1e-6


def test_a_bias_is_not_rounded_twice_in_bfloat16() -> None:
    """Both ways err by bfloat16's own rounding, alike."""
    shape = SHAPES[1]
    exact = plain(*inputs(shape, torch.float64))
    errors = [
        (attend(*inputs(shape, torch.bfloat16), shape[-1] ** -0.5).double() - exact).square().mean()
        for attend in (with_mask, with_key_channels)
    ]
    assert 0 < errors[1] < 4 * errors[0]


@pytest.mark.gpu
def test_the_encoder_on_a_gpu_equals_the_published_one(small_sam: Any, photo: Any) -> None:
    expected = SamPackage(small_sam).embed([photo])
    fast = SamPackage(copy.deepcopy(small_sam), mode="fast", device="cuda", compiled=False)
    torch.backends.cuda.matmul.allow_tf32 = False
    found = fast.embed([photo]).cpu()
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
