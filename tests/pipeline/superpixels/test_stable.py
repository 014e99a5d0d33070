"""Stable masks and boxes decided by bounds, against the published two steps for every mask."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.dense import to_masks
from svp.pipeline.masks import runs as rl
from svp.pipeline.recipe import GridConfig
from svp.pipeline.superpixels import selection, stable, threshold
from svp.pipeline.superpixels.stable import MaskReader, rounding
from svp.pipeline.superpixels.upsample import UpsampleShape, axes, fused, two_step

SHAPES = [
    UpsampleShape(256, (192, 256), (96, 128)),
    UpsampleShape(256, (256, 171), (300, 200)),
    UpsampleShape(1024, (768, 1024), (480, 640)),
    UpsampleShape(256, (1, 256), (1, 700)),
    UpsampleShape(192, (100, 192), (50, 96)),  # low-res : input = 1 : 3
    UpsampleShape(48, (40, 48), (31, 37)),  # the input is smaller than the logits
]
CONFIG = GridConfig(stability_score_thresh=0.7)


def logits(seed: int, count: int, kind: str) -> Tensor:
    """smooth: blobs; rough: neighbours of the largest logit and its opposite; flat: near -1, 0, 1."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "rough":
        return (torch.rand((count, 64, 64), generator=generator) > 0.5).float() * 60 - 30
    coarse = torch.randn((count, 1, 6, 6), generator=generator) * 9 - 3
    smooth = F.interpolate(coarse, (64, 64), mode="bicubic", align_corners=False)[:, 0]
    return smooth if kind == "smooth" else smooth.clamp(-1, 1).round() * (1 + 1e-6) + 0.0


@pytest.mark.parametrize("kind", ["smooth", "rough", "flat"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bound_holds(shape: UpsampleShape, kind: str) -> None:
    low = logits(1, 6, kind)
    y, x = axes(shape, low)
    apart = (fused(low, y.matrix, x.matrix) - two_step(low, shape)).abs().max()
    assert apart <= rounding(low)


def expected(
    low: Tensor, shape: UpsampleShape, index: Any, level: Any
) -> tuple[Any, Any, Any, rl.Runs]:
    """Stable masks, their boxes, scores and runs, every mask up-scaled by the published steps."""
    dense = two_step(low, shape)[index]
    high, under = ((dense > at).sum((1, 2)).numpy() for at in (1, -1))
    score = selection.stability_score(high, under)
    good = np.flatnonzero(selection.passes_stability(score, level[index], CONFIG))
    runs = rl.from_masks((dense[good] > 0).numpy())
    return index[good], rl.boxes(runs), score[good], runs


@pytest.mark.parametrize("looser", [1.0, 300.0, float("inf")])
@pytest.mark.parametrize("kind", ["smooth", "rough", "flat"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decisions_and_pixels_are_those_of_the_published_steps(
    shape: UpsampleShape, kind: str, looser: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the bound leaves many masks undecided, or all."""
    monkeypatch.setattr(stable, "rounding", lambda low: looser * rounding(low))
    low, index = logits(2, 40, kind), np.arange(1, 40)
    level = np.arange(40, dtype=np.uint8) % 3
    reader = MaskReader(CONFIG, shape, fused=False)
    found = reader.stable(low, index, level)
    wanted, box, score, runs = expected(low, shape, index, level)
    assert found.index.tolist() == wanted.tolist()
    np.testing.assert_array_equal(found.box, box)
    np.testing.assert_array_equal(found.filled, rl.areas(runs) > 0)
    pieces, scores = reader.read(found.cuts)
    np.testing.assert_array_equal(scores, score)
    np.testing.assert_array_equal(
        to_masks(rl.join(pieces, len(wanted), *shape.size)), to_masks(runs)
    )


def test_few_masks_are_up_scaled_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: list[int] = []
    inner = threshold.upscaled

    def counted(small: Tensor, *rest: Any, fused: bool) -> Any:
        exact.append(0 if fused else len(small))
        return inner(small, *rest, fused=fused)

    monkeypatch.setattr(threshold, "upscaled", counted)
    low = logits(3, 60, "smooth")
    level = np.full(60, 2, np.uint8)
    found = MaskReader(CONFIG, SHAPES[0], fused=False).stable(low, np.arange(60), level)
    assert 5 < len(found.index) < 55
    assert sum(exact) <= 12
