"""Geometry of grid prompting: crops, prompt points and their SAM input coordinates.

Source: facebookresearch/segment-anything utils/amg.py (`generate_crop_boxes`,
`build_all_layer_point_grids`, `is_box_near_crop_edge`) and utils/transforms.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EDGE_TOLERANCE = 20  # pixels; a constant of the published code


@dataclass(frozen=True, slots=True)
class Crop:
    """Columns [x0, x1), rows [y0, y1) of the image; layer 0 is the whole image."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0 y0 x1 y1, exclusive maxima."""
        return self.x0, self.y0, self.x1, self.y1


def crop_boxes(height: int, width: int, layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then for each layer i 2^i x 2^i overlapping crops, x outer, y inner.

    Crops without pixels, which the published code would make of very thin images, are left out.
    """
    crops = [Crop(0, 0, width, height)]
    for layer in range(1, layers + 1):
        side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / side))
        crop_w, crop_h = _crop_length(width, side, overlap), _crop_length(height, side, overlap)
        for i in range(side):
            for j in range(side):
                x, y = i * (crop_w - overlap), j * (crop_h - overlap)
                crops.append(Crop(x, y, min(x + crop_w, width), min(y + crop_h, height), layer))
    return [crop for crop in crops if min(crop.size) > 0]


def crop_points(crop: Crop, points_per_side: int, downscale: int) -> NDArray[np.float64]:
    """(n*n,2) prompt points x y in pixels of the crop, centres of an even grid, x fastest."""
    n = max(1, int(points_per_side / downscale**crop.layer))
    height, width = crop.size
    side = np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
    x, y = np.meshgrid(side * width, side * height)
    return np.stack((x.ravel(), y.ravel()), axis=1)


def every_second(count: int) -> NDArray[np.bool_]:
    """(n*n,) which points of a grid of `crop_points` lie in every second row and column.

    >>> every_second(9).reshape(3, 3).astype(int).tolist()
    [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    """
    even = np.arange(math.isqrt(count)) % 2 == 0
    chosen: NDArray[np.bool_] = np.outer(even, even).ravel()
    return chosen


def to_resized(
    points: NDArray[np.float64], crop: Crop, frame: tuple[int, int]
) -> NDArray[np.float64]:
    """Points of the crop in pixels of the model input, in which the crop has `frame` (h,w) pixels."""
    height, width = crop.size
    new_height, new_width = frame
    scaled: NDArray[np.float64] = points * np.array([new_width / width, new_height / height])
    return scaled


def near_crop_edge(
    boxes: NDArray[np.integer], crop: Crop, height: int, width: int
) -> NDArray[np.bool_]:
    """(N,) boxes cut off by the crop: a side within 20 px of its crop side, not of the image's.

    boxes  (N,4) x1 y1 x2 y2 in image pixels, inclusive maxima
    """
    near_crop = np.abs(boxes - np.array(crop.box)) <= EDGE_TOLERANCE
    near_image = np.abs(boxes - np.array([0, 0, width, height])) <= EDGE_TOLERANCE
    cut: NDArray[np.bool_] = (near_crop & ~near_image).any(axis=1)
    return cut


def _crop_length(length: int, crops: int, overlap: int) -> int:
    return math.ceil((overlap * (crops - 1) + length) / crops)
