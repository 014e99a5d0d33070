"""Paint a scene of world 2: the image, and label maps that agree with it before the blur.

Grounds are tinted photographs (`grounds.png`: three crops of 192x192 px, halved, of the pictures
`grass`, `gravel` and `brick` of scikit-image 0.26; all CC0: grass by linolafett, the others by
CC0Textures). Integer
arithmetic throughout, so that every platform gives the same bits.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..scenes.render import noise
from ..scenes.shapes import Mask, outline
from ..scenes.world import region_map
from .sampling import Coat, Scene, Thing
from .silhouettes import part_map
from .vocabulary import GROUNDS, PAINTS, PHOTOGRAPHED

_CROP: Final = 192  # side of a photograph in grounds.png
Pixels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Labels:
    """Visible pixels, (H,W) uint8 each.

    whole  1..R grounds in painting order, R+1.. things from back to front; never 0
    part   the number of the part that shows, from 1; 0 on the grounds
    """

    whole: NDArray[np.uint8]
    part: NDArray[np.uint8]


def paint(scene: Scene) -> tuple[NDArray[np.uint8], Labels]:
    """The image, (H,W,3) uint8 RGB, and its labels."""
    whole = region_map(scene.regions, scene.height, scene.width)
    labels = Labels(whole, np.zeros_like(whole))
    image = np.zeros((scene.height, scene.width, 3), np.int32)
    for k, (region, offset) in enumerate(zip(scene.regions, scene.offsets, strict=True), 1):
        image[whole == k] = _ground(region.name, scene.height, scene.width, offset)[whole == k]
    for k, thing in enumerate(scene.things, len(scene.regions) + 1):
        _paint_thing(image, labels, thing, k)
    image = image * _light(scene)[..., None] // 100
    image += noise(scene.height, scene.width, *scene.noise)[..., None]
    for _ in range(scene.blur):
        image = _blurred(image)
    return image.clip(0, 255).astype(np.uint8), labels


def _ground(name: str, height: int, width: int, offset: tuple[int, int]) -> Pixels:
    tint = np.asarray(GROUNDS[name], np.int32)
    if name not in PHOTOGRAPHED:
        return np.broadcast_to(tint, (height, width, 3))
    photo = np.roll(_photographs()[PHOTOGRAPHED.index(name)], offset, (0, 1))
    rows, columns = -(-height // _CROP), -(-width // _CROP)
    grey = np.tile(photo, (rows, columns))[:height, :width]
    return np.asarray(tint + (grey - 118)[..., None] * 2 // 5, np.int32)


def _paint_thing(image: Pixels, labels: Labels, thing: Thing, index: int) -> None:
    side, mask = thing.side, thing.mask
    rows, columns = slice(thing.y, thing.y + side), slice(thing.x, thing.x + side)
    parts = part_map(thing.arrangement, side)
    canvas = image[rows, columns]
    for number, coat in enumerate(thing.coats, 1):
        inside = mask & (parts == number)
        canvas[inside] = _painted(coat, side)[inside]
    edge = outline(mask)
    canvas[edge] = canvas[edge] * 2 // 5
    labels.whole[rows, columns][mask] = index
    labels.part[rows, columns][mask] = parts[mask]


@cache
def _painted(coat: Coat, side: int) -> Pixels:
    """(side, side, 3) of one coat."""
    light = np.asarray(PAINTS[coat.paint], np.int32)
    dark = light + 90 if light.max() < 80 else light * 11 // 20
    return np.where(_pattern(coat.finish, side)[..., None], dark, light)


def _pattern(finish: str, side: int) -> Mask:
    axis = np.arange(side)
    u, v = axis[None, :], axis[:, None]
    if finish == "striped":
        return np.asarray(((u + v) // 2) % 2 == 0)
    if finish == "dotted":
        return np.asarray((u % 4 < 2) & (v % 4 < 2))
    if finish == "checked":
        return np.asarray((u // 3 + v // 3) % 2 == 0)
    return np.zeros((side, side), np.bool_)


def _light(scene: Scene) -> Pixels:
    """(H,W) percent: linear from side to side and from top to bottom."""
    left, right, top, bottom = scene.light
    x, y = np.arange(scene.width), np.arange(scene.height)
    across = left + (right - left) * x // max(1, scene.width - 1)
    down = top + (bottom - top) * y // max(1, scene.height - 1)
    return np.asarray(across[None, :] * down[:, None] // 100, np.int32)


def _blurred(image: Pixels) -> Pixels:
    """Filtered by 1-2-1 along both axes, the border repeated."""
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], "edge")
        n = image.shape[axis]
        before, here, after = (padded.take(range(k, k + n), axis) for k in range(3))
        image = (before + 2 * here + after + 2) // 4
    return image


@cache
def _photographs() -> tuple[Pixels, ...]:
    """Grey values (192,192) of each photograph, in the order of `PHOTOGRAPHED`."""
    from PIL import Image

    data = files(__package__).joinpath("grounds.png").read_bytes()
    grey = np.asarray(Image.open(BytesIO(data)), np.int32)
    return tuple(grey.reshape(len(PHOTOGRAPHED), _CROP, _CROP))
