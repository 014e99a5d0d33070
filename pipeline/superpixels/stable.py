"""Stable masks: found with as little exact up-scaling as decides, read once box NMS has chosen.

Fused up-sampling differs from the published two steps by no more than `rounding`. With its thresholds
raised and lowered by that much it counts the least and the most pixels that the published steps can
give. Where both decide alike (stable or not, and the box) so do the published steps; the few other
masks are up-scaled by them. Runs and the stored stability are read later, of the masks that box NMS
leaves, by the published steps in `exact` mode. So nothing that is stored depends on the bound.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..masks import runs as rl
from ..masks.runs import Ints, Pieces
from ..recipe import GridConfig
from . import selection, threshold
from .candidates import Cut, Stable
from .selection import Levels, Scores
from .threshold import Outlines, Upscaled, Window, find_windows, low_window
from .upsample import UpsampleShape

NOWHERE = -1e30  # logits of low-res pixels that no pixel above a threshold is made of


def rounding(low: Tensor) -> float:
    """Largest difference, in logits, of fused and two-step values of logits (K,h,w).

    In float32 a source coordinate among n pixels is off by n 2^-22 at most, in two directions and two
    steps. Neighbours differ by twice the largest logit at most, and after the first step by as much
    less as that adds pixels. Weights, products and sums add less than four times 2^-19 of the largest.
    """
    return float(low.abs().amax()) * (max(low.shape[-2:]) + 4) * 2.0**-19


class MaskReader:
    """Up-scales the masks of one crop, as little as decides.

    fused  fused up-sampling decides alone (`fast` mode)
    """

    def __init__(self, config: GridConfig, shape: UpsampleShape, *, fused: bool) -> None:
        self._config, self._shape, self._fused = config, shape, fused

    def stable(self, low: Tensor, index: Ints, level: Levels) -> Stable:
        """Those of the masks `index` that pass the test of stability.

        low    (N,h,w) fp32 logits of all of the decoder's outputs
        level  (N,)
        """
        none = np.zeros(0, np.int64)
        parts = [Stable(none, none.reshape(0, 4), none.astype(np.bool_), [])]
        step = self._shape.chunk(low.device, fused=True)
        for first in range(0, len(index), step):
            parts.append(self._stable(low, index[first : first + step], level))
        return Stable(
            index=np.concatenate([part.index for part in parts]),
            box=np.concatenate([part.box for part in parts]),
            filled=np.concatenate([part.filled for part in parts]),
            cuts=[cut for part in parts for cut in part.cuts],
        )

    def read(self, cuts: Sequence[Cut]) -> tuple[Pieces, Scores]:
        """Pieces and stability of masks, from what `stable` gave."""
        pieces, scores = [rl.no_pieces()], [np.zeros(0, np.float32)]
        step = self._shape.chunk(cuts[0].logits.device, self._fused) if cuts else 1
        for first in range(0, len(cuts), step):
            small = _pasted(cuts[first : first + step])
            windows = find_windows(small, self._shape, self._limit(0.0))
            large = self._upscaled(small, windows, fused=self._fused)
            seen = large.outlines(self._config.stability_score_offset)
            scores.append(selection.stability_score(seen.high, seen.low))
            pieces.append(rl.moved(large.pieces(), mask=first))
        return rl.concat_pieces(pieces), np.concatenate(scores)

    def _stable(self, low: Tensor, index: Ints, level: Levels) -> Stable:
        small, level = low[torch.from_numpy(index).to(low.device)], level[index]
        windows, seen = self._outlines(small, level)
        good = np.flatnonzero(self._passes(seen, seen, level))
        cuts = [_cut(small[i], low_window(windows[i], self._shape, small)) for i in good]
        return Stable(index[good], seen.box[good], seen.area[good] > 0, cuts)

    def _outlines(self, small: Tensor, level: Levels) -> tuple[list[Window], Outlines]:
        """Windows and outlines of masks: of the mode's arithmetic, or others that decide alike."""
        offset = self._config.stability_score_offset
        margin = 0.0 if self._fused else rounding(small)
        windows = find_windows(small, self._shape, self._limit(margin))
        large = self._upscaled(small, windows, fused=True)
        if self._fused:
            return windows, large.outlines(offset)
        least, most = large.outlines(offset, margin), large.outlines(offset, -margin)
        unsure = np.flatnonzero(~self._alike(least, most, level) | ~np.isfinite(margin))
        step = self._shape.chunk(small.device, fused=False)
        for rows in np.split(unsure, range(step, len(unsure), step)):
            part = self._upscaled(small[rows], [windows[i] for i in rows], fused=False)
            seen = part.outlines(offset)
            for name in ("high", "area", "low", "box"):
                getattr(least, name)[rows] = getattr(seen, name)
        return windows, least

    def _alike(self, least: Outlines, most: Outlines, level: Levels) -> NDArray[np.bool_]:
        """(K,) whether all counts and boxes between the two give one decision."""
        worst, best = self._passes(least, most, level), self._passes(most, least, level)
        known = (least.low > 0) | (most.low == 0)  # the score of no pixel is NaN, not the best one
        same = (least.box == most.box).all(1) & ((least.area > 0) | (most.area == 0))
        alike: NDArray[np.bool_] = known & (worst == best) & (same | ~best)
        return alike

    def _passes(self, high: Outlines, low: Outlines, level: Levels) -> NDArray[np.bool_]:
        score = selection.stability_score(high.high, low.low)
        return selection.passes_stability(score, level, self._config)

    def _upscaled(self, small: Tensor, windows: Sequence[Window], *, fused: bool) -> Upscaled:
        return threshold.upscaled(small, self._shape, windows, fused=fused)

    def _limit(self, margin: float) -> float:
        """A thousandth of the offset is far more than the rounding of an interpolation."""
        return -self._config.stability_score_offset * 1.001 - margin


def _cut(logits: Tensor, place: Window) -> Cut:
    part = logits[place]
    if part.device.type == "cpu":  # elsewhere it is the whole mask, and a copy a launch
        part = part.clone()
    return Cut(part, place, (logits.shape[0], logits.shape[1]))


def _pasted(cuts: Sequence[Cut]) -> Tensor:
    """(K,h,w) logits; what was cut off lies below every threshold."""
    small = cuts[0].logits.new_full((len(cuts), *cuts[0].size), NOWHERE)
    for mask, cut in zip(small, cuts, strict=True):
        mask[cut.place] = cut.logits
    return small
