"""Sample a scene of world 2: grounds, groups of things that resemble each other, light and blur.

Things come in groups, because what tells them apart is what an expression has to say:

    binding   equal bodies whose parts are exchanged: the same paints at other places
    outline   equal boxes and paints, other silhouettes or turns
    paint     equal silhouettes, other paints and sizes
    alone     a thing of its own

Invariants of every scene: a thing shows at least 60 % of itself, one of a binding or outline group
at least 90 %, a ground at least 400 px.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..scenes.rng import Rng
from ..scenes.world import Region, region_map
from .silhouettes import Mask, silhouette_mask, turns
from .vocabulary import (
    ARRANGEMENTS,
    FINISHES,
    GRIDS,
    GROUNDS,
    PAINTS,
    SIDES,
    SILHOUETTES,
    SIZES,
)

_MIN_GROUND_PX = 400
_TRIES = 40  # places tried per thing before its group is left out
_GAP = 2  # px between things that do not hide each other
_MAX_THINGS = 60  # labels are uint8, annotation ids leave two digits
_MIRRORED = ("stack", "row", "stack of three", "row of three", "quarters")


@dataclass(frozen=True, slots=True)
class Coat:
    """Paint of a part."""

    paint: str
    finish: str = "plain"

    @property
    def text(self) -> str:
        """As an expression names it: "red", "striped red"."""
        return self.paint if self.finish == "plain" else f"{self.finish} {self.paint}"


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. (x, y) is the top left pixel of its box, `side` px wide and high.

    coats   of its parts, in the order of `part_map(arrangement, side)`
    group   number of the group it was sampled in, `kind` that group's kind
    """

    silhouette: str
    turn: int
    size: str
    arrangement: str
    coats: tuple[Coat, ...]
    group: int = 0
    kind: str = "alone"
    x: int = 0
    y: int = 0

    @property
    def side(self) -> int:
        """Of the box, px."""
        return SIDES[self.size]

    @property
    def mask(self) -> Mask:
        """(side, side) pixels of the whole body."""
        return silhouette_mask(self.silhouette, self.turn, self.side)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's centre, px."""
        return self.x + self.side / 2, self.y + self.side / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole scene; `things` from the back to the front.

    offsets  (y, x) of each ground's photograph
    light    (percent at the left, right, top, bottom); blur  passes of a 3x3 binomial filter
    """

    height: int
    width: int
    regions: tuple[Region, ...]
    things: tuple[Thing, ...]
    offsets: tuple[tuple[int, int], ...]
    light: tuple[int, int, int, int]
    blur: int
    noise: tuple[int, int]


def sample_scene(rng: Rng, height: int, width: int, difficulty: int) -> Scene:
    """A random scene of `height` x `width` px; `difficulty` 0 to 100 adds things, look-alikes,
    occlusion, uneven light and blur.
    """
    while True:
        regions = _sample_grounds(rng, height, width)
        things = _place(rng, region_map(regions, height, width), len(regions), difficulty)
        if len(things) >= 3:
            break
    offsets = tuple((rng.below(4096), rng.below(4096)) for _ in regions)
    swing = 4 + difficulty // 4
    light = tuple(rng.between(100 - swing, 100 + swing // 2) for _ in range(4))
    blur = 1 if rng.chance(difficulty // 2) else 0
    noise = (rng.below(64), rng.below(64))
    return Scene(height, width, regions, tuple(things), offsets, light, blur, noise)  # type: ignore[arg-type]


def _sample_grounds(rng: Rng, height: int, width: int) -> tuple[Region, ...]:
    names = list(GROUNDS)
    rng.shuffle(names)
    while True:
        shapes: list[tuple[str, tuple[int, ...]]] = [("all", ())]
        horizon = rng.between(height * 3 // 10, height * 7 // 10)
        tilt = height // 12
        shapes.append(
            ("below", (horizon + rng.between(-tilt, tilt), horizon + rng.between(-tilt, tilt)))
        )
        if rng.chance(50):
            wide, left = rng.between(width // 4, width * 2 // 5), rng.chance(50)
            shapes.append(
                ("rect", (0, 0, wide, height) if left else (width - wide, 0, width, height))
            )
        if rng.chance(40):
            cx, cy = (
                rng.between(width // 4, width * 3 // 4),
                rng.between(height // 4, height * 3 // 4),
            )
            shapes.append(
                (
                    "ellipse",
                    (
                        cx,
                        cy,
                        rng.between(width // 6, width // 3),
                        rng.between(height // 8, height // 4),
                    ),
                )
            )
        regions = tuple(Region(name, *shape) for name, shape in zip(names, shapes, strict=False))
        shown = np.bincount(region_map(regions, height, width).ravel(), minlength=len(regions) + 1)
        if shown[1:].min() >= 3 * _MIN_GROUND_PX:
            return regions


def _place(rng: Rng, ground: NDArray[np.uint8], regions: int, difficulty: int) -> list[Thing]:
    """Groups put down one by one, each thing in front of the earlier ones, whole groups or none."""
    height, width = ground.shape
    board = _Board(ground, regions)
    area = height * width / (128 * 128)
    wanted = min(int(rng.between(4, 5 + difficulty // 12) * area), _MAX_THINGS)
    things: list[Thing] = []
    for number in range(wanted):
        group = _sample_group(rng, number, difficulty)
        before = board.copy()
        placed: list[Thing] = []
        for thing in group:
            found = board.put(thing, rng, crowded=rng.chance(difficulty // 4))
            if found is None:
                break
            placed.append(found)
        if len(placed) == len(group):
            things += placed
        else:
            board = before
        if len(things) >= wanted:
            break
    return things


class _Board:
    """Visible pixels of each object during placement, and how many each must keep."""

    def __init__(self, ground: NDArray[np.uint8], regions: int) -> None:
        self.regions = regions
        self.top = ground.copy()
        self.shown = np.bincount(ground.ravel(), minlength=256)
        self.least = np.full(256, _MIN_GROUND_PX, np.float64)
        self.count = regions

    def copy(self) -> "_Board":
        """The same state, independent of this one."""
        other = _Board(self.top, self.regions)
        other.least, other.count = self.least.copy(), self.count
        other.shown = self.shown.copy()
        return other

    def put(self, thing: Thing, rng: Rng, *, crowded: bool) -> Thing | None:
        """The thing at a place where every invariant holds, in front of all others; None if none
        was found.
        """
        height, width = self.top.shape
        side, mask = thing.side, thing.mask
        for _ in range(_TRIES):
            x, y = rng.between(1, width - side - 1), rng.between(1, height - side - 1)
            under = self.top[y : y + side, x : x + side]
            lost = np.bincount(under[mask], minlength=256)
            if (self.shown - lost < self.least)[1 : self.count + 1].any():
                continue
            near = self.top[max(0, y - _GAP) : y + side + _GAP, max(0, x - _GAP) : x + side + _GAP]
            if not crowded and (near > self.regions).any():
                continue
            self.count += 1
            under[mask] = self.count
            pixels = int(mask.sum())
            self.shown = self.shown - lost
            self.shown[self.count] = pixels
            share = 0.9 if thing.kind in ("binding", "outline") else 0.6
            self.least[self.count] = share * pixels
            return replace(thing, x=x, y=y)
        return None


def _sample_group(rng: Rng, number: int, difficulty: int) -> list[Thing]:
    kinds = ["alone", "paint", *("binding", "outline") * (1 + difficulty // 50)]
    kind = rng.pick(kinds)
    members = {"alone": _alone, "paint": _paint, "binding": _binding, "outline": _outline}[kind]
    return [replace(thing, group=number, kind=kind) for thing in members(rng)]


def _alone(rng: Rng) -> list[Thing]:
    silhouette = rng.pick(SILHOUETTES)
    arrangement = rng.pick(tuple(ARRANGEMENTS)) if silhouette in ("square", "disc") else "whole"
    size = rng.pick(SIZES if ARRANGEMENTS[arrangement] == 1 else SIZES[1:])
    coats = _coats(rng, ARRANGEMENTS[arrangement])
    return [Thing(silhouette, rng.below(turns(silhouette)), size, arrangement, coats)]


def _paint(rng: Rng) -> list[Thing]:
    """Two to four of one silhouette and turn, of other paints or sizes."""
    silhouette = rng.pick(SILHOUETTES)
    turn = rng.below(turns(silhouette))
    paints = list(PAINTS)
    rng.shuffle(paints)
    few = paints[: rng.between(1, 3)]
    return [
        Thing(silhouette, turn, rng.pick(SIZES[:2]), "whole", (Coat(rng.pick(few), _finish(rng)),))
        for _ in range(rng.between(2, 4))
    ]


def _binding(rng: Rng) -> list[Thing]:
    """A body and the one whose parts are exchanged; sometimes a third of other paints."""
    silhouette, size = rng.pick(("square", "disc")), rng.pick(SIZES[1:])
    arrangement = rng.pick(_MIRRORED)
    count = ARRANGEMENTS[arrangement]
    coats = _coats(rng, count)
    if arrangement == "quarters" and rng.chance(50):
        coats = (coats[0], coats[1], coats[1], coats[0])
    thing = Thing(silhouette, 0, size, arrangement, coats)
    # Reversed: the mirror image of stacks and rows, half a turn of quarters.
    back = (
        tuple(reversed(coats))
        if coats != tuple(reversed(coats))
        else (coats[1], coats[0], coats[0], coats[1])
    )
    group = [thing, replace(thing, coats=back)]
    if rng.chance(25):
        group.append(replace(thing, coats=_coats(rng, count)))
    return group


def _outline(rng: Rng) -> list[Thing]:
    """Two or three of one box and coat: other silhouettes, or one silhouette turned otherwise."""
    size, coat = rng.pick(SIZES), (Coat(rng.pick(tuple(PAINTS)), _finish(rng)),)
    names = [*GRIDS, "ring", "moon"]
    rng.shuffle(names)
    count = rng.between(2, 3)
    turning = next(name for name in names if turns(name) > 1)
    if rng.chance(50):
        some = list(range(turns(turning)))
        rng.shuffle(some)
        return [Thing(turning, turn, size, "whole", coat) for turn in some[:count]]
    return [Thing(name, rng.below(turns(name)), size, "whole", coat) for name in names[:count]]


def _coats(rng: Rng, count: int) -> tuple[Coat, ...]:
    """Different from part to part: other paints, or (one in four) one paint of other finishes."""
    finishes: Sequence[str] = FINISHES
    if 1 < count <= len(FINISHES) and rng.chance(25):
        some = list(finishes)
        rng.shuffle(some)
        paint = rng.pick(tuple(PAINTS))
        return tuple(Coat(paint, finish) for finish in some[:count])
    paints = list(PAINTS)
    rng.shuffle(paints)
    return tuple(Coat(paint, _finish(rng) if count < 3 else "plain") for paint in paints[:count])


def _finish(rng: Rng) -> str:
    return FINISHES[0] if rng.chance(60) else rng.pick(FINISHES[1:])
