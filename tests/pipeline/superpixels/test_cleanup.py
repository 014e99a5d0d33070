"""Hole and island removal on runs, against the published procedure with OpenCV."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from support.dense import to_masks
from svp.pipeline.masks import runs as rl
from svp.pipeline.superpixels.cleanup import clean

Masks = NDArray[np.bool_]


def reference(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    """What the published procedure does to one mask, in our words."""
    flagged = False
    for holes in (True, False):
        wanted = (~mask if holes else mask).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(wanted, connectivity=8)
        size = stats[1:, cv2.CC_STAT_AREA]
        small = np.flatnonzero(size < min_area) + 1
        if not len(small):
            continue
        flagged = True
        if holes:
            mask = mask | np.isin(labels, small)
        elif len(small) < len(size):
            mask = mask & ~np.isin(labels, small)
        else:
            mask = labels == 1 + np.argmax(size)
    return mask, flagged


def compare(masks: Masks, min_area: int) -> None:
    runs, flags = clean(rl.from_masks(masks), min_area)
    expected = [reference(mask, min_area) for mask in masks]
    np.testing.assert_array_equal(to_masks(runs), np.stack([mask for mask, _ in expected]))
    np.testing.assert_array_equal(flags, [flag for _, flag in expected])


@pytest.mark.parametrize("seed", range(40))
def test_equals_opencv_on_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 40, 2)
    noise = rng.random((12, height, width))
    density = rng.uniform(0.1, 0.9, (12, 1, 1))
    compare(noise < density, int(rng.integers(2, 60)))


@pytest.mark.parametrize("seed", range(10))
def test_equals_opencv_when_largest_components_tie(seed: int) -> None:
    # Scattered equal blobs, all smaller than min_area: keep-largest is decided by the tie rule.
    rng = np.random.default_rng(seed)
    masks = np.zeros((60, 17, 19), np.bool_)
    for mask in masks:
        for _ in range(6):
            y, x = rng.integers(0, 16), rng.integers(0, 17)
            mask[y, x : x + 2] = True
    compare(masks, 500)


def test_diagonal_neighbours_are_connected_and_columns_do_not_wrap() -> None:
    mask = np.zeros((1, 4, 4), np.bool_)
    mask[0, [0, 1, 2, 3], [0, 1, 2, 3]] = True  # one 8-connected component of 4
    runs, flags = clean(rl.from_masks(mask), 4)
    np.testing.assert_array_equal(to_masks(runs) & mask, mask)
    wraps = np.zeros((1, 4, 30), np.bool_)
    wraps[0, 3, 4] = wraps[0, 0, 5] = True  # one flat run, two components
    wraps[0, :, 10:20] = True
    runs, flags = clean(rl.from_masks(wraps), 2)
    assert rl.areas(runs).tolist() == [40] and flags.tolist() == [True]


def test_a_mask_whose_only_island_is_small_is_flagged_but_unchanged() -> None:
    mask = np.zeros((1, 30, 30), np.bool_)
    mask[0, 3:6, 3:6] = True
    runs, flags = clean(rl.from_masks(mask), 100)
    np.testing.assert_array_equal(to_masks(runs), mask)
    assert flags.tolist() == [True]


def test_no_masks_and_empty_masks() -> None:
    runs, flags = clean(rl.empty(5, 6), 100)
    assert len(runs) == 0 and len(flags) == 0
    compare(np.zeros((2, 30, 30), np.bool_), 100)
