"""Worth and order of superpixels: which of them an expression may be about.

The worth of a superpixel is what a logistic regression expects of its best IoU with an annotated
target, from the mean of its features and its shape. The order takes the superpixel next whose worth
times its distance to those before is largest, so that every prefix is a set of worthy superpixels
that differ. Sums run in the order of the channels, in float64 of stored values: the same bits on
every machine, whatever computed the means.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..records import PART, WHOLE, Superpixels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRAITS = (
    "log of the share of the image", "part", "whole", "predicted IoU", "stability",
    "centre x", "centre y", "width", "height",
)  # fmt: skip


def traits(found: Superpixels) -> Floats:
    """(N,9) what is known of superpixels beside their features, as `TRAITS` names it.

    Places and sizes are shares of the image's sides.
    """
    height, width = found.height, found.width
    x1, y1, x2, y2 = found.box.astype(np.float64).T
    return np.stack(
        [
            np.log(np.maximum(found.area, 1) / (height * width)),
            (found.level == PART).astype(np.float64),
            (found.level == WHOLE).astype(np.float64),
            found.predicted_iou.astype(np.float64),
            found.stability.astype(np.float64),
            (x1 + x2 + 1) / (2 * width),
            (y1 + y2 + 1) / (2 * height),
            (x2 - x1 + 1) / width,
            (y2 - y1 + 1) / height,
        ],
        axis=1,
    )


@dataclass(frozen=True)
class Prior:
    """Weights (C + 10,) float32 of C channels, the traits and a constant; C = 0 of shapes alone."""

    weights: NDArray[np.float32]

    @classmethod
    def parse(cls, text: str) -> "Prior":
        """From base64. Raises ConfigError if it is none."""
        try:
            weights = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        except ValueError:
            raise ConfigError("order.prior: not base64 of float32 values") from None
        if len(weights) <= len(TRAITS) or not np.isfinite(weights).all():
            raise ConfigError(f"order.prior: {len(weights)} weights, or not finite")
        return cls(weights.astype(np.float32))

    def text(self) -> str:
        """As `parse` reads it."""
        return base64.b64encode(self.weights.astype("<f4").tobytes()).decode("ascii")

    @property
    def channels(self) -> int:
        """C."""
        return len(self.weights) - len(TRAITS) - 1

    def worth_of_shapes(self, found: Superpixels) -> NDArray[np.float16]:
        """(N,) worth in [0,1] by shapes alone, of a prior without channels."""
        return self.worth(np.empty((len(found), 0), np.float16), found)

    @cached_property
    def _column(self) -> Floats:
        return self.weights[:-1, None].astype(np.float64)

    def worth(self, means: NDArray[np.float16], found: Superpixels) -> NDArray[np.float16]:
        """(N,) worth in [0,1] of superpixels with the means (N,C)."""
        values = np.hstack([means.astype(np.float64), traits(found)]).T
        logits = (np.ascontiguousarray(values) * self._column).sum(axis=0) + self.weights[-1]
        worth: NDArray[np.float16] = (1 / (1 + np.exp(-np.clip(logits, -60, 60)))).astype(
            np.float16
        )
        return worth


def spread_order(worth: NDArray[np.float16] | Floats, means: NDArray[np.floating]) -> Ints:
    """(N,) indices by worth times distance: the most worthy first, then the one whose worth times
    its distance to the nearest that was taken is largest. Of equal ones the first.

    means  (N,C) features
    """
    wide, weight = means.astype(np.float64), worth.astype(np.float64) ** 2
    left = np.ones(len(wide), np.bool_)
    taken = [int(weight.argmax())]
    nearest = np.full(len(wide), np.inf)
    while len(taken) < len(wide):
        left[taken[-1]] = False
        nearest = np.minimum(nearest, ((wide - wide[taken[-1]]) ** 2).sum(axis=1))
        score = np.where(left, weight * nearest, -1.0)
        if score.max() <= 0:  # no worth, or copies of what was taken: by worth alone
            score = np.where(left, weight, -1.0)
        taken.append(int(score.argmax()))
    return np.array(taken, np.int64)


def thresholds(worths: Sequence[NDArray[np.float16]]) -> tuple[float, ...]:
    """Thresholds of mean counts 1, 2, ...: of the superpixels worth more, and the most worthy one of
    each image, there are so many on average in these images.

    They end below the mean number of all superpixels.
    """
    others = np.concatenate([np.sort(worth)[:-1] for worth in worths]).astype(np.float64)
    others = -np.sort(-others)
    images = len(worths)
    return tuple(float(limit) for limit in others[::images])
