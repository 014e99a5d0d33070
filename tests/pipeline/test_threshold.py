"""Counts and runs of logits, against dense comparisons."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svp.pipeline import runs as rl
from svp.pipeline.threshold import _OnDevice, thresholded


def logits(shape: tuple[int, int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(shape[0], 1, 5, 5, generator=generator) * 6 - 2
    smooth = F.interpolate(coarse, shape[1:], mode="bicubic", align_corners=False)[:, 0]
    smooth[0] = -9.0  # no pixel at all
    smooth[1] = 9.0  # every pixel
    smooth[2] = 0.0  # above -offset only
    return smooth


@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.parametrize("shape", [(9, 40, 31), (5, 1, 70), (5, 70, 1), (4, 1, 1)])
def test_equals_the_dense_comparison(shape: tuple[int, int, int], column_major: bool) -> None:
    for seed in range(10):
        dense = logits(shape, seed)
        if column_major:
            dense = dense.transpose(1, 2).contiguous().transpose(1, 2)
        good = np.array([2, 0, 1, shape[0] - 1])
        for seen in (thresholded(dense, 1.0), _OnDevice(dense, 1.0)):
            np.testing.assert_array_equal(seen.high, (dense > 1).sum((1, 2)).numpy())
            np.testing.assert_array_equal(seen.low, (dense > -1).sum((1, 2)).numpy())
            runs = seen.runs(good)
            np.testing.assert_array_equal(rl.to_masks(runs), (dense[good] > 0).numpy())
            assert rl.encode(runs) == rl.encode(rl.from_masks((dense[good] > 0).numpy()))
            assert len(seen.runs(good[:0])) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gpu_gives_the_same_counts_and_runs() -> None:
    dense = logits((9, 40, 31), 0)
    ours, expected = thresholded(dense.cuda(), 1.0), thresholded(dense, 1.0)
    np.testing.assert_array_equal(ours.high, expected.high)
    np.testing.assert_array_equal(ours.low, expected.low)
    good = np.arange(9)
    assert rl.encode(ours.runs(good)) == rl.encode(expected.runs(good))
