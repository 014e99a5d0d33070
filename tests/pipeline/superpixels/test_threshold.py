"""Counts, boxes and runs of logits, against dense comparisons."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.dense import to_masks
from svp.pipeline.masks import runs as rl
from svp.pipeline.superpixels import upsample
from svp.pipeline.superpixels.threshold import (
    Upscaled,
    _OnDevice,
    find_windows,
    low_window,
    upscaled,
)
from svp.pipeline.superpixels.upsample import UpsampleShape

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


def dense_logits(small: Tensor, shape: UpsampleShape, *, fused: bool) -> Tensor:
    if not fused:
        return upsample.two_step(small, shape)
    y, x = upsample.axes(shape, small)
    return upsample.fused(small, y.matrix, x.matrix)


def runs_of(seen: Upscaled, count: int, shape: UpsampleShape) -> rl.Runs:
    return rl.join(seen.pieces(), count, *shape.size)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_dense_comparison(shape: UpsampleShape, fused: bool) -> None:
    for seed in range(10):
        small = logits(seed)
        dense = dense_logits(small, shape, fused=fused)
        windows = find_windows(small, shape, -2.0)
        on_host = upscaled(small, shape, windows, fused=fused)
        for seen in (on_host, _OnDevice(dense)):
            for shift in (0.0, 0.5):
                found = seen.outlines(1.0, shift)
                counted = [(dense > at + shift).sum((1, 2)).numpy() for at in (1, 0, -1)]
                np.testing.assert_array_equal(found.high, counted[0])
                np.testing.assert_array_equal(found.area, counted[1])
                np.testing.assert_array_equal(found.low, counted[2])
                above = rl.from_masks((dense > shift).numpy())
                np.testing.assert_array_equal(found.box, rl.boxes(above))
            runs = runs_of(seen, len(small), shape)
            np.testing.assert_array_equal(to_masks(runs), (dense > 0).numpy())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_window_of_low_pixels_holds_all_that_its_pixels_are_made_of(shape: UpsampleShape) -> None:
    small = logits(3)
    windows = find_windows(small, shape, -2.0)
    for fused in (False, True):
        whole = dense_logits(small, shape, fused=fused)
        cut = torch.full_like(small, -1e6)
        for mask, window, target in zip(small, windows, cut, strict=True):
            place = low_window(window, shape, small)
            target[place] = mask[place]
        again = dense_logits(cut, shape, fused=fused)
        for mask, (first, second) in enumerate(zip(whole, again, strict=True)):
            assert torch.equal(first[windows[mask]], second[windows[mask]])
        assert (whole > -1).sum() == (again > -1).sum() > 0


@pytest.mark.gpu
def test_gpu_gives_the_same_counts_boxes_and_runs() -> None:
    shape, small = SHAPES[0], logits(0)
    windows = find_windows(small, shape, -2.0)
    expected = upscaled(small, shape, windows, fused=False)
    device = small.cuda()
    ours = upscaled(device, shape, find_windows(device, shape, -2.0), fused=False)
    for name in ("high", "area", "low", "box"):
        both = (getattr(seen.outlines(1.0), name) for seen in (ours, expected))
        np.testing.assert_array_equal(*both)
    assert rl.encode(runs_of(ours, len(small), shape)) == rl.encode(
        runs_of(expected, len(small), shape)
    )
