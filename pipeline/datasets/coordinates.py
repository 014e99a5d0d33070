"""Plausibility checks of polygon coordinates against the image size.

Coordinates of another system are refused where they cannot be right: shares of the side (0..1, as
YOLO and Roboflow write them), polygons outside the picture, or far beyond its edge (drawn at another
size, or on the photograph before its EXIF turn). A polygon that passes the edge by a little is
clipped and counted. What can only be seen in many of them together (percent, 0..1000, a smaller
copy) is told, not refused. RLE states its size, which `masks.rle` compares.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..display import counted, show
from ..errors import DataError

SHARES = 1.5  # coordinates of shares of the side, drawn a little beyond the edge
SMALLEST = 8  # pixels a side: in smaller pictures 0..1.5 may be meant
ROUNDING = 1.0  # pixels beyond the edge that are no news: some tools count corners, some centres
SLACK = 0.1  # part of the side a polygon may pass the edge by, and at least `ROUNDING` + 1 pixel
SEVERAL, TENTH = 5, 10  # so many misplaced objects, and over one in ten: another unit or size

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels


def extent(segmentation: object) -> Box | None:
    """The box around all polygons; None for an RLE, no polygon, or what is no polygon at all."""
    if not isinstance(segmentation, list | tuple):
        return None
    xs: list[float] = []
    ys: list[float] = []
    for part in segmentation:
        if not isinstance(part, list | tuple) or len(part) < 6 or len(part) % 2:
            return None
        if not all(isinstance(n, int | float | np.integer | np.floating) for n in part):
            return None
        xs += part[0::2]
        ys += part[1::2]
    if not xs:
        return None
    try:
        box = float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
    except OverflowError:  # an int of hundreds of digits
        return None
    return box if all(map(isfinite, box)) else None


def beyond(box: Box, height: int, width: int) -> float:
    """Pixels by which the box exceeds the image, 0 if it does not."""
    return max(0.0, -box[0], -box[1], box[2] - width, box[3] - height)


def misplaced(box: Box, height: int, width: int) -> str | None:
    """Reason why polygons with this box cannot belong to an image (height, width), or None.

    >>> misplaced((0.1, 0.1, 0.6, 0.6), 128, 128).partition(",")[0]
    'its coordinates lie within 0..1'
    >>> misplaced((100, 100, 240, 240), 128, 128).partition(":")[0]
    'reaches x=240, y=240 in a picture 128 wide and 128 high'
    """
    x1, y1, x2, y2 = box
    if max(map(abs, box)) <= SHARES and min(height, width) >= SMALLEST:
        return (
            "its coordinates lie within 0..1, fractions of the side: multiply x by the width "
            f"({width}) and y by the height ({height})"
        )
    outside = x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height
    far = any(
        passed > max(SLACK * side, ROUNDING + 1)
        for passed, side in ((max(-x1, x2 - width), width), (max(-y1, y2 - height), height))
    )
    if not outside and not far:
        return None
    picture = f"a picture {width} wide and {height} high"
    reached = [
        f"{axis}={_number(value)}"
        for axis, low, high, side in (("x", x1, x2, width), ("y", y1, y2, height))
        for value in ((low,) if -low > high - side else (high,))
        if low < -ROUNDING or high > side + ROUNDING
    ]
    where = ", ".join(reached) or f"x={_number(x2)}, y={_number(y2)}"
    said = f"reaches {where} in {picture}"
    return f"{said}{', wholly outside' if outside else ''}: {_advice(box, height, width)}"


def misplaced_problem(segmentation: object, height: int, width: int) -> str | None:
    """`misplaced` of the polygons of a segmentation; None for an RLE."""
    box = extent(segmentation)
    problem = misplaced(box, height, width) if box is not None else None
    return f"polygon {problem}" if problem else None


def require_placed(segmentation: object, height: int, width: int, where: str) -> None:
    """DataError naming `where` if the polygons of a segmentation are `misplaced`."""
    if problem := misplaced_problem(segmentation, height, width):
        raise DataError(f"{where}: {problem}")


def systematic(wrong: int, objects: int) -> bool:
    """Whether so many misplaced objects are no accident: then those that fit are wrong as well."""
    return 2 * wrong > objects or (wrong >= SEVERAL and TENTH * wrong > objects)


@dataclass
class Placement:
    """Statistics of all polygons of one file.

    polygons  objects given as polygons
    clipped   of these, those that pass the edge by a little; `first` and `most` (pixels) describe
    """

    polygons: int = 0
    clipped: int = 0
    first: str = ""
    most: float = 0.0
    largest: float = 0.0  # coordinate
    smallest_side: int = 1 << 30  # of the pictures
    reach: float = 0.0  # largest coordinate as a share of its side

    def add(self, segmentation: object, height: int, width: int, where: str) -> None:
        """Look at one object that is not misplaced."""
        box = extent(segmentation)
        if box is None or not height:
            return
        self.polygons += 1
        passed = beyond(box, height, width)
        if passed > ROUNDING:
            self.first = self.first or where
            self.clipped += 1
            self.most = max(self.most, passed)
        self.largest = max(self.largest, box[2], box[3])
        self.smallest_side = min(self.smallest_side, height, width)
        self.reach = max(self.reach, box[2] / width, box[3] / height)

    def notices(self) -> list[str]:
        """Lines for the user; none if all is plain."""
        found: list[str] = []
        if self.clipped:
            found.append(
                f"clipped: polygons of {self.clipped:,} of "
                f"{counted(self.polygons, 'object', 'pass')} "
                f"the edge of their picture, by up to {self.most:.0f} pixels (first: "
                f"{show(self.first)})"
            )
        if (guess := self._guess()) is not None:
            found.append(
                f"polygons of all {counted(self.polygons, 'object', 'lie')} in {guess}; "
                "coordinates are read as pixels of the photograph: scale them if that is so"
            )
        return found

    def _guess(self) -> str | None:
        """Guess the coordinate system of the whole file, if it is not pixels."""
        if not self.polygons:
            return None
        for unit, name in ((100, "percent"), (1000, "thousandths of the side")):
            # Several objects that fill the unit, but half of the picture at most: small objects in
            # pictures hardly larger than the unit are nothing to wonder at.
            fills = unit / 2 <= self.largest <= unit
            if self.polygons > 1 and fills and self.smallest_side >= 2 * unit:
                return f"0..{unit} while no picture has a side under {self.smallest_side}: {name}?"
        if self.polygons >= TENTH and self.reach <= 0.55:
            return "the upper left quarter of their pictures: drawn on a smaller copy?"
        return None


def survey(objects: Iterable[tuple[object, int, int, str]]) -> tuple[Placement, list[str]]:
    """Placement of (segmentation, height, width, where), and a line for each misplaced one."""
    placement, wrong = Placement(), []
    for segmentation, height, width, where in objects:
        if height and (problem := misplaced_problem(segmentation, height, width)):
            wrong.append(f"{where}: {problem}")
            continue
        placement.add(segmentation, height, width, where)
    return placement, wrong


def _advice(box: Box, height: int, width: int) -> str:
    if height != width and beyond(box, width, height) <= ROUNDING:
        return (
            "it would fit the picture turned by 90 degrees: drawn before its EXIF turn, or x and y "
            "swapped?"
        )
    times = max(box[2] / width, box[3] / height)
    if 1.0 < times <= 16.0 and min(box) >= -ROUNDING:
        return (
            f"drawn on a copy at least {times:.2f} times as large? Scale the polygons; clip them to "
            "the picture if they are meant to reach beyond it"
        )
    return "of another photograph, or another unit? Coordinates are pixels from the upper left"


def _number(value: float) -> str:
    return f"{value:.6g}"
