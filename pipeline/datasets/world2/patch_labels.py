"""Labels of the patches of a scene of world 2: what each shows of its thing.

The paint and finish of the part that covers most of a patch, the ground behind it, and the
silhouette of the thing it shows: what a self-supervised encoder tells of a patch. Neither the turn of
a thing nor what is where on it is among them.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .make import MadeScene
from .vocabulary import FINISHES, GROUNDS, PAINTS, SILHOUETTES

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "paint": tuple(PAINTS),
    "finish": FINISHES,
    "ground": tuple(GROUNDS),
    "silhouette": SILHOUETTES,
}
_CLEAR: Final = 0.5  # share of a patch that its owner must cover for the patch to be asked about it
_COATS: Final = [(paint, finish) for paint in PAINTS for finish in FINISHES]


def patch_labels(made: MadeScene, patch: int) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Labels (P,A) in the order of `ATTRIBUTES`, -1 where none, and pixels of things in each
    quarter (P,4); patches of `patch` pixels, even, in raster order.
    """
    whole, part = made.labels.whole, made.labels.part
    grounds = len(made.scene.regions)
    # One number per (thing, part), and per ground: what a patch can be owned by.
    owner = np.where(whole > grounds, whole.astype(np.int64) * 8 + part, whole)
    tiles = _tiles(owner, patch)
    labels = np.full((len(tiles), len(ATTRIBUTES)), -1, np.int8)
    for k, tile in enumerate(tiles):
        values, counts = np.unique(tile, return_counts=True)
        best = int(values[counts.argmax()])
        if counts.max() < _CLEAR * tile.size:
            continue
        if best <= grounds:
            labels[k, 2] = ATTRIBUTES["ground"].index(made.scene.regions[best - 1].name)
            continue
        thing = made.scene.things[best // 8 - grounds - 1]
        coat = thing.coats[best % 8 - 1]
        labels[k, 0] = ATTRIBUTES["paint"].index(coat.paint)
        labels[k, 1] = FINISHES.index(coat.finish)
        labels[k, 3] = SILHOUETTES.index(thing.silhouette)
    half = patch // 2
    shown = _tiles(whole > grounds, patch).reshape(-1, 2, half, 2, half)
    return labels, shown.sum((2, 4)).reshape(-1, 4).astype(np.uint8)


def coat_shares(made: MadeScene, patch: int) -> NDArray[np.float64]:
    """(P,36) share of each patch that shows each paint and finish: features that tell no more."""
    grounds = len(made.scene.regions)
    shown = np.full(made.labels.whole.shape, len(_COATS), np.int64)
    for number, thing in enumerate(made.scene.things):
        mine = made.labels.whole == grounds + 1 + number
        codes = np.array([0, *(_COATS.index((c.paint, c.finish)) for c in thing.coats)])
        shown[mine] = codes[made.labels.part[mine]]
    tiles = _tiles(shown, patch)
    rows = np.arange(len(tiles))[:, None] * (len(_COATS) + 1) + tiles
    counts = np.bincount(rows.ravel(), minlength=len(tiles) * (len(_COATS) + 1))
    return np.asarray(counts.reshape(len(tiles), -1)[:, :-1] / patch**2)


def _tiles(m: NDArray[Any], patch: int) -> NDArray[Any]:
    """(P, patch*patch) pixels of each patch."""
    h, w = m.shape[0] // patch, m.shape[1] // patch
    return m.reshape(h, patch, w, patch).transpose(0, 2, 1, 3).reshape(h * w, -1)
