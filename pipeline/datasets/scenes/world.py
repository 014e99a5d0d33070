"""Scene description: background regions, and things with parts and sub-parts.

A description says everything; drawing it takes no further choice. Invariants of every scene: each
thing shows at least 60 % and 110 px of itself, each region at least 200 px, each part most of its
pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rng import Rng
from .shapes import Mask, grown, shape_mask
from .vocab import COLOURS, REGIONS, SHAPES, SIZE_AREAS, SIZES, TEXTURES

_MIN_SHOWN_PX, _MIN_SHOWN_SHARE, _MIN_REGION_PX = 110, 0.6, 200
_MAX_THINGS = 90  # labels are uint8, annotation ids leave two digits
_GAP = 3  # px between things that do not hide each other
_TRIES = 24  # positions tried per thing before it is left out


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a thing, centred (dx, dy) pixels from the centre of its owner."""

    shape: str
    colour: str
    area: int
    dx: int
    dy: int
    sub: "Part | None" = None


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. (x, y) is the pixel at the centre of its body."""

    shape: str
    colour: str
    texture: str
    size: str
    area: int
    x: int
    y: int
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """One background region, painted over the earlier ones.

    kind and numbers: `all` (), `below` (y at the left edge, y at the right edge),
    `rect` (x0, y0, x1, y1; maxima exclusive), `ellipse` (cx, cy, rx, ry).
    """

    name: str
    kind: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole scene; `things` from the back to the front. `noise` offsets the noise tile (y, x)."""

    height: int
    width: int
    regions: tuple[Region, ...]
    things: tuple[Thing, ...]
    tint: tuple[int, int, int]
    noise: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Masks of one thing on a square of side 2r+1 around its centre; nested: sub in part in whole.

    near   the whole and `_GAP` pixels around it
    """

    radius: int
    whole: Mask
    part: Mask
    sub: Mask
    near: Mask


def sample_scene(rng: Rng, height: int, width: int) -> Scene:
    """A random scene of `height` x `width` pixels (both >= 64)."""
    while True:
        regions = _sample_regions(rng, height, width)
        ground = region_map(regions, height, width)
        things = _place(rng, ground, len(regions))
        if len(things) >= 3:
            break
    tint = (rng.between(-8, 8), rng.between(-8, 8), rng.between(-8, 8))
    noise = (rng.below(64), rng.below(64))
    return Scene(height, width, regions, tuple(things), tint, noise)


def region_map(regions: tuple[Region, ...], height: int, width: int) -> NDArray[np.uint8]:
    """(H,W) uint8: 1-based index of the region at each pixel, before any thing is drawn."""
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    out = np.ones((height, width), np.uint8)
    for index, region in enumerate(regions, 1):
        n = region.numbers
        if region.kind == "below":
            out[y * (width - 1) >= n[0] * (width - 1) + (n[1] - n[0]) * x] = index
        elif region.kind == "rect":
            out[n[1] : n[3], n[0] : n[2]] = index
        elif region.kind == "ellipse":
            inside = ((x - n[0]) * n[3]) ** 2 + ((y - n[1]) * n[2]) ** 2 <= (n[2] * n[3]) ** 2
            out[inside] = index
    return out


def stamp(thing: Thing) -> Stamp:
    """The masks of a thing, independent of where it stands."""
    radius = _reach(thing) + _GAP
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    u, v = axis[None, :], axis[:, None]
    whole = shape_mask(thing.shape, thing.area, u, v)
    part, sub = np.zeros_like(whole), np.zeros_like(whole)
    if (p := thing.part) is not None:
        part = shape_mask(p.shape, p.area, u - p.dx, v - p.dy)
        if p.sub is not None:
            dx, dy = p.dx + p.sub.dx, p.dy + p.sub.dy
            sub = part & shape_mask(p.sub.shape, p.sub.area, u - dx, v - dy)
    whole |= part
    return Stamp(radius, whole, part, sub, grown(whole, _GAP))


def _reach(thing: Thing) -> int:
    reach = int(0.9 * thing.area**0.5) + 2  # the longest shape, a bar, reaches 0.81 sqrt(area)
    if thing.part is not None:
        p = thing.part
        reach = max(reach, max(abs(p.dx), abs(p.dy)) + int(0.9 * p.area**0.5) + 2)
    return reach


def _sample_regions(rng: Rng, height: int, width: int) -> tuple[Region, ...]:
    names = list(REGIONS)
    rng.shuffle(names)
    while True:
        shapes = _region_shapes(rng, height, width)
        regions = tuple(Region(name, *s) for name, s in zip(names, shapes, strict=False))
        shown = np.bincount(region_map(regions, height, width).ravel(), minlength=len(regions) + 1)
        if shown[1:].min() >= 3 * _MIN_REGION_PX:
            return regions


def _region_shapes(rng: Rng, h: int, w: int) -> list[tuple[str, tuple[int, ...]]]:
    out: list[tuple[str, tuple[int, ...]]] = [("all", ())]
    cuts = [rng.between(h * 3 // 10, h * 7 // 10)]
    if rng.chance(45):
        cuts = [rng.between(h // 4, h * 2 // 5), rng.between(h * 3 // 5, h * 3 // 4)]
    out += [("below", (c + rng.between(-h // 12, h // 12), c + rng.between(-h // 12, h // 12)))
            for c in cuts]  # fmt: skip
    if rng.chance(50):  # a side wall from the top edge to the first cut, or to the bottom edge
        wide, tall = rng.between(w // 6, w * 2 // 5), rng.pick((cuts[0], h))
        left = rng.chance(50)
        out.append(("rect", (0, 0, wide, tall) if left else (w - wide, 0, w, tall)))
    for _ in range(rng.below(3)):
        cx, cy = rng.between(w // 6, w * 5 // 6), rng.between(h // 6, h * 5 // 6)
        rx, ry = rng.between(w // 8, w // 4), rng.between(h // 10, h // 5)
        if rng.chance(50):
            out.append(("ellipse", (cx, cy, rx, ry)))
        else:
            x0, y0 = max(0, cx - rx), max(0, cy - ry)
            out.append(("rect", (x0, y0, min(w, cx + rx), min(h, cy + ry))))
    return out


class _Table:
    """Visible pixels of each object during placement, and how many each may still lose."""

    def __init__(self, ground: NDArray[np.uint8], regions: int) -> None:
        self.regions = regions
        self.wholes, self.parts = ground.copy(), np.zeros_like(ground)
        self.shown = np.bincount(ground.ravel(), minlength=256)
        self.parts_shown = np.zeros(256, np.int64)
        self.least = np.full(256, _MIN_REGION_PX, np.float64)
        self.least_part = np.zeros(256)
        self.count = regions

    def put(self, mark: Stamp, x: int, y: int, crowded: bool) -> bool:
        """Draw the thing in front of all others there, unless an invariant would break."""
        rows, cols, inner = window(mark, x, y, *self.wholes.shape)
        whole, part = mark.whole[inner], mark.part[inner]
        if whole.sum() < mark.whole.sum():
            return False  # it would leave the image
        wholes, parts = self.wholes[rows, cols], self.parts[rows, cols]
        lost = np.bincount(wholes[whole], minlength=256)
        lost_parts = np.bincount(parts[whole], minlength=256)
        lost_parts[0] = 0
        if not crowded and self._touches(mark, x, y):
            return False
        if (self.shown - lost < self.least)[1 : self.count + 1].any():
            return False
        if (self.parts_shown - lost_parts < self.least_part)[1 : self.count + 1].any():
            return False
        self.count += 1
        wholes[whole], parts[whole] = self.count, 0
        parts[part] = self.count
        self._note(lost, lost_parts, int(whole.sum()), int(part.sum()))
        return True

    def _touches(self, mark: Stamp, x: int, y: int) -> bool:
        """Whether another thing shows within `_GAP` pixels, along rows, columns or diagonals."""
        rows, cols, inner = window(mark, x, y, *self.wholes.shape)
        near = mark.near[inner] & (self.wholes[rows, cols] > self.regions)
        return bool(near.any())

    def _note(
        self, lost: NDArray[np.int64], lost_parts: NDArray[np.int64], whole: int, part: int
    ) -> None:
        k = self.count
        self.shown, self.parts_shown = self.shown - lost, self.parts_shown - lost_parts
        self.shown[k], self.parts_shown[k] = whole, part
        self.least[k] = max(_MIN_SHOWN_PX, _MIN_SHOWN_SHARE * whole)
        self.least_part[k] = 0.7 * part


def _place(rng: Rng, ground: NDArray[np.uint8], regions: int) -> list[Thing]:
    """Things put down one by one, each new one in front, as long as the invariants hold."""
    height, width = ground.shape
    table = _Table(ground, regions)
    wanted = min(rng.between(4, 26) * height * width // (128 * 128), _MAX_THINGS)
    kinds = _family(rng)
    things: list[Thing] = []
    for _ in range(wanted):
        crowded = rng.chance(15)  # may hide some of an earlier thing
        thing = _sample_thing(rng, kinds)
        mark = stamp(thing)
        edge = (mark.radius - _GAP) * 2 // 3
        for _try in range(_TRIES):
            x, y = rng.between(edge, width - 1 - edge), rng.between(edge, height - 1 - edge)
            if table.put(mark, x, y, crowded):
                things.append(_moved(thing, x, y))
                break
    return things


def window(mark: Stamp, x: int, y: int, h: int, w: int) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns of the image that the stamp covers, and the same within the stamp."""
    top, left, r = y - mark.radius, x - mark.radius, 2 * mark.radius + 1
    rows, cols = slice(max(0, top), min(h, top + r)), slice(max(0, left), min(w, left + r))
    inner = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
    return rows, cols, inner


def _family(rng: Rng) -> tuple[list[str], list[str]]:
    """The shapes and colours of one scene: few of each make same-class distractors common."""
    shapes, colours = list(SHAPES), list(COLOURS)
    rng.shuffle(shapes)
    rng.shuffle(colours)
    return shapes[: rng.between(3, 6)], colours[: rng.between(4, 7)]


def _sample_thing(rng: Rng, kinds: tuple[list[str], list[str]]) -> Thing:
    shapes, colours = kinds
    size = rng.pick(SIZES)
    colour = rng.pick(colours)
    texture = TEXTURES[0] if rng.chance(45) else rng.pick(TEXTURES[1:])
    thing = Thing(rng.pick(shapes), colour, texture, size, rng.between(*SIZE_AREAS[size]), 0, 0)
    if size == SIZES[0] or rng.chance(35):
        return thing
    return _moved(thing, 0, 0, _sample_part(rng, thing))


def _sample_part(rng: Rng, thing: Thing) -> Part:
    """Inside the body, or (one in four) half outside it like a knob."""
    colours = [c for c in COLOURS if c != thing.colour]
    shape, colour = rng.pick(("disc", "square", "triangle", "diamond", "cross")), rng.pick(colours)
    if rng.chance(25):
        area, reach = thing.area // 5, int(0.5 * thing.area**0.5)
        dx, dy = rng.pick(((0, -reach), (reach, 0), (-reach, 0)))
        return Part(rng.pick(("disc", "square")), colour, area, dx, dy)
    area = thing.area * rng.between(22, 30) // 100
    dy = int(0.2 * thing.area**0.5) if thing.shape == "triangle" else 0
    sub = None
    if thing.size == SIZES[2] and rng.chance(60):
        inner = [c for c in colours if c != colour]
        sub = Part(rng.pick(("disc", "square")), rng.pick(inner), area * 30 // 100, 0, 0)
    return Part(shape, colour, area, 0, dy, sub)


def _moved(thing: Thing, x: int, y: int, part: Part | None = None) -> Thing:
    t = thing
    return Thing(t.shape, t.colour, t.texture, t.size, t.area, x, y, part or t.part)
