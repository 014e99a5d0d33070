"""SLIC superpixels, the baseline without a network (Table C, third row).

scikit-image's `slic`, `start_label=0`, every label one superpixel. `n_segments` is not the count:
its connectivity step merges segments, so the recipe's value is calibrated to a mean of 40 labels.
Invariant: the superpixels tile the image, and the same image and config give the same bytes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingPackageError
from ..masks import runs as rl
from ..masks.runs import Runs
from ..recipe import SlicConfig
from ..records import WHOLE, Superpixels
from .candidates import largest

Image = NDArray[np.uint8]
Labels = NDArray[np.int64]


def slic_superpixels(
    image: Image, config: SlicConfig | None = None, max_superpixels: int = 256
) -> Superpixels:
    """Superpixels of one (H,W,3) uint8 RGB image: level WHOLE, scores 1, point = centroid.

    The smallest above `max_superpixels` are dropped and counted in `survivors`.
    Raises MissingPackageError without scikit-image, DataError for any other array.
    """
    runs = rl.from_labels(slic_labels(image, config or SlicConfig()))
    found = len(runs)
    runs = rl.select(runs, largest(rl.areas(runs), max_superpixels))
    count, (height, width) = len(runs), image.shape[:2]
    return Superpixels(
        height=height,
        width=width,
        rles=rl.encode(runs),
        level=np.full(count, WHOLE, np.uint8),
        predicted_iou=np.ones(count, np.float32),
        stability=np.ones(count, np.float32),
        area=rl.areas(runs).astype(np.int32),
        box=rl.boxes(runs).astype(np.int32),
        point=centroids(runs).astype(np.float32),
        crop=np.tile(np.array([0, 0, width, height], np.int32), (count, 1)),
        survivors={"labels": found, "kept": count},
    )


def slic_labels(image: Image, config: SlicConfig) -> Labels:
    """(H,W) labels from 0."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"an image is a (H,W,3) uint8 array with pixels, got {image.shape} {image.dtype}"
        )
    labels: Labels = _slic()(
        image,
        n_segments=config.n_segments,
        compactness=config.compactness,
        sigma=config.sigma,
        start_label=0,
        channel_axis=-1,
    )
    return labels


def calibrate(
    images: Sequence[Image], target: float = 40.0, compactness: float = 10.0
) -> tuple[SlicConfig, float]:
    """The `n_segments` whose mean label count on `images` is nearest to `target`, and that mean.

    Bisection: the mean grows with `n_segments`, if not strictly. Ties go to the smaller value.
    """
    means: dict[int, float] = {}

    def mean(segments: int) -> float:
        config = SlicConfig(n_segments=segments, compactness=compactness)
        counts = [len(np.unique(slic_labels(image, config))) for image in images]
        return means.setdefault(segments, sum(counts) / len(counts))

    low, high = 1, max(1, min(4096, int(8 * target)))  # photographs need 1.2 to 1.6 times
    while low < high:
        middle = (low + high) // 2
        if mean(middle) < target:
            low = middle + 1
        else:
            high = middle
    mean(low)
    best = min(means, key=lambda n: (abs(means[n] - target), n))
    return SlicConfig(n_segments=best, compactness=compactness), means[best]


def require() -> None:
    """Raises MissingPackageError now, rather than at the first image."""
    _slic()


def centroids(runs: Runs) -> NDArray[np.float64]:
    """(N,2) mean x and y of each mask's pixels."""
    parts = rl.pieces(runs)
    rows = parts.bottom - parts.top
    area = np.bincount(parts.mask, rows)
    x = np.bincount(parts.mask, rows * parts.column) / area
    y = np.bincount(parts.mask, rows * (parts.top + parts.bottom - 1) / 2) / area
    return np.stack((x, y), axis=1)


def _slic() -> Callable[..., Labels]:
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingPackageError("scikit-image", "slic", "SLIC superpixels") from error
    function: Callable[..., Labels] = slic
    return function
