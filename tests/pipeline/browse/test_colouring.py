"""Colours of superpixels: neighbours differ, on random partitions and over stacks of masks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from svp.pipeline.browse.colouring import COLOURS, colours, contacts


def partition(seed: int, cells: int, side: int = 48) -> list[NDArray[np.bool_]]:
    """Cells of the nearest of random points."""
    points = np.random.default_rng(seed).random((cells, 2)) * side
    y, x = np.mgrid[:side, :side]
    label = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1)
    return [label == k for k in range(cells) if (label == k).any()]


def touching(masks: list[NDArray[np.bool_]]) -> set[tuple[int, int]]:
    """Pairs with pixels in common or beside each other, pixel by pixel."""
    found = set()
    owners: dict[tuple[int, int], set[int]] = {}
    for k, mask in enumerate(masks):
        for y, x in np.argwhere(mask).tolist():
            owners.setdefault((y, x), set()).add(k)
    for (y, x), here in owners.items():
        for dy, dx in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
            for a in here:
                found |= {
                    (min(a, b), max(a, b)) for b in owners.get((y + dy, x + dx), ()) if a != b
                }
    return found


@pytest.mark.parametrize("seed", range(6))
def test_neighbours_differ(seed: int) -> None:
    masks = partition(seed, 40)
    rng = np.random.default_rng(seed)
    grown = [mask | np.roll(mask, 1, rng.integers(2)) for mask in masks]  # overlaps
    for some in (masks, grown):
        shared = contacts(some)
        pairs = {(int(a), int(b)) for a, b in np.argwhere(np.triu(shared))}
        assert pairs == touching(some)
        chosen = colours(shared)
        assert len(chosen) == len(some) and set(chosen) <= set(range(COLOURS))
        assert all(chosen[a] != chosen[b] for a, b in pairs)


def test_many_hues_are_used_and_the_result_is_stable() -> None:
    shared = contacts(partition(1, 60))
    assert len(set(colours(shared))) == COLOURS  # not only the five that a map needs
    assert colours(shared) == colours(shared.copy())


def test_where_colours_run_out_the_least_contact_repeats() -> None:
    shared = np.full((4, 4), 9) - 9 * np.eye(4, dtype=np.int64)
    shared[0, 3] = shared[3, 0] = 1
    found = colours(shared, most=3)
    assert found[0] == found[3] and len(set(found)) == 3


def test_none_and_one() -> None:
    assert colours(contacts([])) == []
    assert colours(contacts([np.ones((2, 2), np.bool_)])) == [0]
