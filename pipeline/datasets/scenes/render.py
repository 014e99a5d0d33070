"""Render a scene: the image, and label maps that agree with it pixel for pixel.

No anti-aliasing: label maps and image agree exactly. Later things hide earlier ones.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .rng import Rng
from .shapes import Mask, outline
from .vocab import COLOURS, REGIONS
from .world import Scene, Thing, region_map, stamp, window

_NOISE = 4  # largest change of a channel by the noise tile
_TILE = 64  # its side
Colour = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Labels:
    """Visible pixels, (H,W) uint8 each.

    whole  1..R regions in painting order, R+1.. things from back to front; never 0
    part   0, or the value of `whole` where a part (its sub-part included) shows
    sub    0, or the value of `whole` where a sub-part shows
    """

    whole: NDArray[np.uint8]
    part: NDArray[np.uint8]
    sub: NDArray[np.uint8]


def draw(scene: Scene) -> tuple[NDArray[np.uint8], Labels]:
    """The image, (H,W,3) uint8 RGB, and its labels."""
    whole = region_map(scene.regions, scene.height, scene.width)
    labels = Labels(whole, np.zeros_like(whole), np.zeros_like(whole))
    palette = np.zeros((len(scene.regions) + 1, 3), np.int16)
    for k, region in enumerate(scene.regions, 1):
        palette[k] = REGIONS[region.name]
    image = palette[whole]
    for k, thing in enumerate(scene.things, len(scene.regions) + 1):
        _draw_thing(image, labels, thing, k)
    image += np.asarray(scene.tint, np.int16)
    image += noise(scene.height, scene.width, *scene.noise)[..., None]
    return image.clip(0, 255).astype(np.uint8), labels


def _draw_thing(image: Colour, labels: Labels, thing: Thing, index: int) -> None:
    mark = stamp(thing)
    rows, cols, inner = window(mark, thing.x, thing.y, *labels.whole.shape)
    whole, part, sub = mark.whole[inner], mark.part[inner], mark.sub[inner]
    canvas = image[rows, cols]
    light = np.asarray(COLOURS[thing.colour], np.int16)
    dark = _second_tone(light)
    canvas[whole] = np.where(_pattern(thing.texture, mark.radius)[inner][whole][:, None],
                             dark, light)  # fmt: skip
    canvas[outline(whole)] = _edge_tone(light)
    if thing.part is not None:
        canvas[part] = COLOURS[thing.part.colour]
        if thing.part.sub is not None:
            canvas[sub] = COLOURS[thing.part.sub.colour]
    labels.whole[rows, cols][whole] = index
    for target, mask in ((labels.part, part), (labels.sub, sub)):
        target[rows, cols][whole] = 0
        target[rows, cols][mask] = index


def _second_tone(colour: Colour) -> Colour:
    """The darker tone of a texture; of black, a lighter one."""
    return np.asarray(colour + 90 if colour.max() < 80 else colour * 11 // 20, np.int16)


def _edge_tone(colour: Colour) -> Colour:
    return np.asarray(colour * 2 // 5, np.int16)


@cache
def _pattern(texture: str, radius: int) -> Mask:
    """Mask of the second tone, on a stamp of this radius."""
    axis = np.arange(2 * radius + 1)
    u, v = axis[None, :], axis[:, None]
    if texture == "striped":
        return np.asarray(((u + v) // 2) % 2 == 0)
    if texture == "dotted":
        return np.asarray((u % 4 < 2) & (v % 4 < 2))
    if texture == "checked":
        return np.asarray((u // 4 + v // 4) % 2 == 0)
    return np.zeros((2 * radius + 1, 2 * radius + 1), np.bool_)


def noise(height: int, width: int, top: int, left: int) -> Colour:
    """(H,W) of the noise tile, repeated from offset (top, left): -4 to 4."""
    tile = np.roll(_noise_tile(), (top, left), (0, 1))
    return np.tile(tile, (-(-height // _TILE), -(-width // _TILE)))[:height, :width]


@cache
def _noise_tile() -> Colour:
    rng = Rng(20250913)
    values = [rng.between(-_NOISE, _NOISE) for _ in range(_TILE * _TILE)]
    return np.array(values, np.int16).reshape(_TILE, _TILE)
