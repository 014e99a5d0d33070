"""Up-sampling against the two published interpolation steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svp.pipeline.superpixels.upsample import UpsampleShape, axes, fused, two_step

SHAPES = [
    UpsampleShape(256, (192, 256), (96, 128)),
    UpsampleShape(256, (256, 171), (300, 200)),
    UpsampleShape(256, (256, 256), (256, 256)),
    UpsampleShape(256, (1, 256), (1, 700)),
    UpsampleShape(256, (253, 256), (511, 517)),
    UpsampleShape(1024, (768, 1024), (480, 640)),
    UpsampleShape(1024, (1024, 768), (1800, 1350)),
    UpsampleShape(192, (100, 192), (50, 96)),  # low-res : input = 1 : 3
]


def published(low: Tensor, shape: UpsampleShape) -> Tensor:
    """`Sam.postprocess_masks` on (N,3,h,w), three masks per prompt, as SAM always has."""
    side = (shape.image_size, shape.image_size)
    large = F.interpolate(low.unflatten(0, (-1, 3)), side, mode="bilinear", align_corners=False)
    large = large[..., : shape.resized[0], : shape.resized[1]]
    return F.interpolate(large, shape.size, mode="bilinear", align_corners=False).flatten(0, 1)


def logits(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randn(count, 1, 9, 9, generator=generator) * 8
    return F.interpolate(coarse, (64, 64), mode="bicubic", align_corners=False)[:, 0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_is_bit_equal_for_every_chunk_size(shape: UpsampleShape) -> None:
    low = logits(12)
    expected = published(low, shape)
    for size in (1, 2, 3, 4, 5, 12):
        ours = torch.cat([two_step(chunk, shape) for chunk in low.split(size)])
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_differs_by_rounding_only(shape: UpsampleShape) -> None:
    low = logits(6)
    y, x = axes(shape, low)
    found = fused(low, y.matrix, x.matrix)
    expected = published(low.double(), shape)
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() < 2e-5
