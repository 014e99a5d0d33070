"""Pair of frozen encoders over one view; the second one's last layer is stored in `layers`.

Both must see the photograph on one patch grid and give one width, as one array holds them side by
side (Table 7: CLIP with DINOv2).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .encoder import Encoder, Features

if TYPE_CHECKING:
    from torch import nn


class PairEncoder(Encoder):
    """An `Encoder` with a second one beside it. Raises ConfigError if their shapes differ."""

    def __init__(self, first: Encoder, second: Encoder) -> None:  # both are made already
        require_one_shape(
            (first.config.encoder, first.grid, first.dim),
            (second.config.encoder, second.grid, second.dim),
        )
        self.first, self.second = first, second
        self.config, self.device, self.view = first.config, first.device, first.view
        self.dim, self.grid = first.dim, first.grid

    @property
    def model(self) -> "nn.Module":
        """The first backbone's weights."""
        return self.first.model

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Features:
        """The first one's features; `layers` ends with the second one's patches."""
        found, beside = self.first.encode(images), self.second.encode(images).patches[:, None]
        layers = beside if found.layers is None else np.concatenate([found.layers, beside], axis=1)
        return replace(found, layers=layers)


Shape = tuple[str, tuple[int, int], int]  # name, patch grid, width


def require_one_shape(first: Shape, second: Shape) -> None:
    """ConfigError unless two encoders' features fit into one array."""
    if first[1:] != second[1:]:
        a, b = (f"{name} gives {h}x{w} patches of {dim}" for name, (h, w), dim in (first, second))
        raise ConfigError(
            f"features.second: {a}, {b}: two encoders in one cache must give the same"
        )
