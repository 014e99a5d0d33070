"""Attributes of regions and things as class labels, for training and measuring encoders."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .vocab import COLOURS, LEVELS, REGIONS, SHAPES, SIZES, TEXTURES
from .world import Scene

_NONE = "none"
PART_SHAPES: Final = ("disc", "square", "triangle", "diamond", "cross")

# Classes per attribute. `kind` holds for regions and things, `level` for single patches, the part
# attributes for things (class 0: no part), the others for things.
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "kind": (*SHAPES, *REGIONS),
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": SIZES,
    "part_colour": (_NONE, *COLOURS),
    "part_shape": (_NONE, *PART_SHAPES),
    "level": LEVELS,
}


def scene_attributes(scene: Scene) -> NDArray[np.int64]:
    """(K,A) labels of the regions, then the things, in label-map order; -1: does not apply."""
    names = list(ATTRIBUTES)
    out = np.full((len(scene.regions) + len(scene.things), len(names)), -1, np.int64)
    for row, region in enumerate(scene.regions):
        out[row, names.index("kind")] = ATTRIBUTES["kind"].index(region.name)
    for row, thing in enumerate(scene.things, len(scene.regions)):
        part = thing.part
        values = {
            "kind": thing.shape,
            "colour": thing.colour,
            "texture": thing.texture,
            "size": thing.size,
            "part_colour": part.colour if part else _NONE,
            "part_shape": part.shape if part else _NONE,
        }
        for name, value in values.items():
            out[row, names.index(name)] = ATTRIBUTES[name].index(value)
    return out
