"""Bounds of superpixels against brute force over all unions."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svp.pipeline.masks.rle import encode
from svp.train.evaluation.upper_bounds import Atoms

Masks = NDArray[np.bool_]


def best_union(masks: Masks, target: NDArray[np.bool_]) -> float:
    """The best IoU over all unions, by trying every one."""
    best = 0.0
    for size in range(len(masks) + 1):
        for chosen in combinations(masks, size):
            union = np.any(chosen, axis=0) if size else np.zeros_like(target)
            best = max(best, (union & target).sum() / (union | target).sum())
    return float(best)


def blobs(rng: np.random.Generator, count: int) -> Masks:
    """Random rectangles on 12 x 10 pixels, never empty."""
    masks = np.zeros((count, 12, 10), np.bool_)
    for mask in masks:
        y, x = rng.integers(0, 10), rng.integers(0, 8)
        mask[y : y + rng.integers(2, 8), x : x + rng.integers(2, 6)] = True
    return masks


def thing(rng: np.random.Generator) -> Masks:
    """A target (12,10) of three rectangles."""
    target: Masks = np.logical_or.reduce(blobs(rng, 3))
    return target


def tiles(rng: np.random.Generator, count: int) -> Masks:
    """A random partition of 12 x 10 pixels, some pixels in no tile."""
    label = rng.integers(0, count + 1, (12, 10))
    label[0, :count] = np.arange(count)
    return np.stack([label == k for k in range(count)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 7), overlap=st.booleans())
def test_against_all_unions(seed: int, count: int, overlap: bool) -> None:
    rng = np.random.default_rng(seed)
    masks = blobs(rng, count) if overlap else tiles(rng, count)
    target = thing(rng)
    atoms = Atoms([encode(mask) for mask in masks])
    found = atoms.bound(target)
    union = masks[list(found.chosen)].any(0)
    assert found.union == (union & target).sum() / (union | target).sum()
    single = max((m & target).sum() / (m | target).sum() for m in masks)
    assert found.single == single <= found.union
    best = best_union(masks, target)
    assert found.union <= best + 1e-12
    if not overlap:
        assert found.union == best


def test_overlapping_unions_are_nearly_always_the_best() -> None:
    rng, hit, lost = np.random.default_rng(5), 0, 0.0
    for _ in range(100):
        masks, target = blobs(rng, 7), thing(rng)
        found = Atoms([encode(mask) for mask in masks]).bound(target).union
        best = best_union(masks, target)
        hit, lost = hit + (found > best - 1e-12), max(lost, best - found)
    assert hit >= 95 and lost < 0.05


def test_atoms_partition_the_image() -> None:
    masks = blobs(np.random.default_rng(1), 6)
    atoms = Atoms([encode(mask) for mask in masks])
    assert atoms.area.sum() == 120 and not atoms.member[:, 0].any()
    for mask, member in zip(masks, atoms.member, strict=True):
        assert (member[atoms.label] == mask).all()


def test_full_mask_and_empty_target() -> None:
    full, nothing = np.ones((4, 5), np.bool_), np.zeros((4, 5), np.bool_)
    assert Atoms([encode(full)]).bound(full).union == 1.0
    found = Atoms([encode(full)]).bound(nothing)
    assert (found.single, found.union, found.chosen) == (0.0, 1.0, ())


def test_out_of_reach() -> None:
    left, right = np.zeros((2, 4, 6), np.bool_)
    left[:, :2], right[:, 4:] = True, True
    found = Atoms([encode(left)]).bound(right)
    assert (found.single, found.union) == (0.0, 0.0)


def test_an_ignored_region_is_no_error_of_a_union() -> None:
    """Brute force over all unions, less the pixels that count for nobody."""
    rng = np.random.default_rng(4)
    masks = blobs(rng, 5)
    target = thing(rng)
    region = (rng.random(target.shape) < 0.5) & ~target
    found = Atoms([encode(mask) for mask in masks]).bound(target, region)
    union = masks[list(found.chosen)].any(0) & ~region
    assert found.union == (union & target).sum() / (union | target).sum()
    assert found.union <= best_union(masks & ~region, target)
    assert found.single == max(
        (m & ~region & target).sum() / ((m & ~region) | target).sum() for m in masks
    )
