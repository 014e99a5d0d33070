"""Colours of superpixels: those that touch or overlap differ.

The order of colouring is DSATUR's (Brélaz, 1979, doi:10.1145/359094.359101): next comes the one whose
neighbours have the most colours. Of the colours that no neighbour has, the one that fewest superpixels have
is taken, so that a picture shows many hues.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

COLOURS = 12  # classes c0 to c11 of style.css


def contacts(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """(N,N) pixels of one mask on or beside those of the other, by edge or corner; 0 on the diagonal.

    masks  N arrays (H,W)
    """
    if not masks:
        return np.zeros((0, 0), np.int64)
    own, grown = _rows(masks), _rows([_grown(mask) for mask in masks])
    found: NDArray[np.int64] = (grown @ own.T).toarray()
    found += found.T  # a thin mask has fewer pixels beside a large one than the other way round
    np.fill_diagonal(found, 0)
    return found


def colours(shared: NDArray[np.int64], most: int = COLOURS) -> list[int]:
    """A colour, 0 to `most` - 1, for each of N superpixels; neighbours differ.

    shared  (N,N) as of `contacts`

    Where a superpixel's neighbours have all `most` colours, it takes that of the neighbours it
    shares the fewest pixels with.
    """
    count = len(shared)
    near = shared > 0
    degree = near.sum(1)
    seen = np.zeros((count, most), np.int64)  # pixels shared with neighbours of each colour
    used = np.zeros(most, np.int64)
    chosen = np.full(count, -1)
    for _ in range(count):
        rank = (seen > 0).sum(1) * (count + 1) + degree
        rank[chosen >= 0] = -1
        one = int(rank.argmax())
        # Fewest shared pixels first, which are none where a colour is free; then the rarest.
        colour = int(np.lexsort((np.arange(most), used, seen[one]))[0])
        chosen[one] = colour
        used[colour] += 1
        seen[:, colour] += shared[one]
    return [int(colour) for colour in chosen]


def _rows(masks: Sequence[NDArray[np.bool_]]) -> csr_array:
    """(N,HW) with a 1 for each pixel of a mask."""
    pixels = [np.flatnonzero(mask) for mask in masks]
    ends = np.cumsum([0, *map(len, pixels)])
    ones = np.ones(ends[-1], np.int64)
    return csr_array((ones, np.concatenate(pixels), ends), shape=(len(masks), masks[0].size))


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and all pixels beside it, also by a corner."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    grown = wide.copy()
    grown[1:] |= wide[:-1]
    grown[:-1] |= wide[1:]
    return grown
