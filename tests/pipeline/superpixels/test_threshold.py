"""Counts and runs of logits, against dense comparisons."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from support.dense import to_masks
from svp.pipeline.masks import runs as rl
from svp.pipeline.superpixels.threshold import Thresholded, _OnDevice, thresholded
from svp.pipeline.superpixels.upsample import UpsampleShape, upsampler

SHAPES = [
    UpsampleShape(64, (48, 64), (40, 53)),
    UpsampleShape(64, (64, 40), (500, 313)),
    UpsampleShape(64, (1, 64), (1, 300)),
    UpsampleShape(64, (64, 64), (9, 9)),
    UpsampleShape(48, (40, 48), (31, 37)),  # low-res : input = 1 : 3
]


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(12, 1, 5, 5, generator=generator) * 6 - 4
    small = F.interpolate(coarse, (16, 16), mode="bicubic", align_corners=False)[:, 0]
    small[0] = -9.0  # no pixel at all
    small[1] = 9.0  # every pixel
    small[2] = 0.0  # above -offset only
    small[3:7] = -9.0
    for number, (y, x) in enumerate([(0, 0), (15, 15), (7, 3), (11, 0)]):
        small[3 + number, y, x] = 30.0  # one low-res pixel: the window is all margin
    return small


def masks_of(seen: Thresholded, good: NDArray[np.int64], shape: UpsampleShape) -> rl.Runs:
    return rl.join(seen.pieces(good), len(good), *shape.size)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_comparison(shape: UpsampleShape, fused: bool) -> None:
    for seed in range(10):
        small = logits(seed)
        dense = upsampler(shape, small, fused=fused)(small)
        good = np.array([2, 0, 1, 3, 4, 5, 6, 11])
        for seen in (thresholded(dense, small, shape, 1.0), _OnDevice(dense, 1.0)):
            np.testing.assert_array_equal(seen.high, (dense > 1).sum((1, 2)).numpy())
            np.testing.assert_array_equal(seen.low, (dense > -1).sum((1, 2)).numpy())
            runs = masks_of(seen, good, shape)
            np.testing.assert_array_equal(to_masks(runs), (dense[good] > 0).numpy())
            assert rl.encode(runs) == rl.encode(rl.from_masks((dense[good] > 0).numpy()))
            assert len(seen.pieces(good[:0]).mask) == 0


@pytest.mark.gpu
def test_gpu_gives_the_same_counts_and_runs() -> None:
    shape, small = SHAPES[0], logits(0)
    dense = upsampler(shape, small, fused=False)(small)
    ours = thresholded(dense.cuda(), small.cuda(), shape, 1.0)
    expected = thresholded(dense, small, shape, 1.0)
    np.testing.assert_array_equal(ours.high, expected.high)
    np.testing.assert_array_equal(ours.low, expected.low)
    good = np.arange(9)
    assert rl.encode(masks_of(ours, good, shape)) == rl.encode(masks_of(expected, good, shape))
