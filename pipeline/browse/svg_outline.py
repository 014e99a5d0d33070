"""Outline of a mask as SVG path data.

Boundaries are followed along pixel edges (exact), then simplified by Douglas and Peucker with a
tolerance below one pixel, which turns staircases into lines. Filled by the even-odd rule the path
shows holes and separate pieces without any ordering of loops.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int64]  # (V,2) x, y of pixel corners
TOLERANCE = 0.75  # pixels; a diagonal staircase leaves its line by 0.71
MOST = 50_000  # pixel edges traced: noise in 24 megapixels has 24 million, minutes and 100 MB


def svg_path(mask: NDArray[np.bool_], scale: float = 1.0, min_area: float = 0.0) -> str:
    """Path data of a (H,W) mask, coordinates times `scale`, rounded to integers; "" if empty.

    Loops that enclose less than `min_area` pixels are left out. A mask of more than `MOST` pixel
    edges is drawn at half the resolution, or a quarter, ...: no page shows so much.
    """
    while _edges(mask) > MOST:
        mask, scale, min_area = _halved(mask), 2 * scale, min_area / 4
    loops = (loop for loop in trace(mask) if abs(_area(loop)) >= min_area)
    return "".join(_data(simplify(loop), scale) for loop in loops)


def _edges(mask: NDArray[np.bool_]) -> int:
    across = np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    return int(across + np.count_nonzero(mask[1:] != mask[:-1]))


def _halved(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The majority of each 2 x 2 pixels, of their first where they are two and two."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, height % 2), (0, width % 2)), mode="edge")
    count = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).sum((1, 3))
    most: NDArray[np.bool_] = (count > 2) | ((count == 2) & padded[::2, ::2])
    return most


def trace(mask: NDArray[np.bool_]) -> Iterator[Points]:
    """Closed loops along pixel edges; each (V,2) int64, corners only, alternately h and v edges."""
    corners = _corners(mask)
    across = _mates(corners[:, 1], corners[:, 0])
    down = _mates(corners[:, 0], corners[:, 1])
    seen = [False] * len(corners)
    for start in range(len(corners)):
        node, loop = start, []
        while not seen[node]:
            other = across[node]
            seen[node] = seen[other] = True
            loop += [node, other]
            node = down[other]
        if loop:
            yield corners[loop]


def simplify(loop: Points, tolerance: float = TOLERANCE) -> Points:
    """The loop with vertices nearer than `tolerance` to the simplified outline left out."""
    if len(loop) <= 4:
        return loop
    far = int(((loop - loop[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([loop, loop[:1]]).astype(np.float64)
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    stack = [(0, far), (far, len(loop))]
    while stack:
        a, b = stack.pop()
        split = _farthest(closed, a, b, tolerance)
        if split:
            keep[split] = True
            stack += [(a, split), (split, b)]
    kept = loop[keep[:-1]]
    return kept if len(kept) > 2 else loop


def _corners(mask: NDArray[np.bool_]) -> Points:
    """Corners (V,2) of all boundaries; where two pixels touch diagonally the point comes twice."""
    padded = np.pad(mask, 1)
    tl, tr, bl, br = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    single = tl ^ tr ^ bl ^ br
    double = (tl == br) & (tr == bl) & (tl != tr)
    y, x = np.nonzero(single | double)
    return np.repeat(np.stack([x, y], 1), np.where(double[y, x], 2, 1), axis=0)


def _mates(line: NDArray[np.int64], along: NDArray[np.int64]) -> list[int]:
    """Partner of each corner on its line: sorted along it, the corners pair up two by two."""
    order = np.lexsort((np.arange(len(line)), along, line))
    mates = np.empty(len(line), np.int64)
    mates[order[0::2]], mates[order[1::2]] = order[1::2], order[0::2]
    result: list[int] = mates.tolist()
    return result


def _farthest(points: NDArray[np.float64], a: int, b: int, tolerance: float) -> int:
    """Index of the point between `a` and `b` farthest from their line, or 0 if all are near."""
    if b - a < 2:
        return 0
    (dx, dy), inner = points[b] - points[a], points[a + 1 : b] - points[a]
    length = float(np.hypot(dx, dy))
    if length == 0:
        distance = np.hypot(inner[:, 0], inner[:, 1])
    else:
        distance = np.abs(inner[:, 0] * dy - inner[:, 1] * dx) / length
    at = int(distance.argmax())
    return a + 1 + at if distance[at] > tolerance else 0


def _area(loop: Points) -> float:
    x, y = loop[:, 0], loop[:, 1]
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def _data(loop: Points, scale: float) -> str:
    points = np.rint(loop * scale).astype(np.int64)
    steps = np.diff(points, axis=0)
    body = " ".join(f"{dx} {dy}" for dx, dy in steps.tolist())
    return f"M{points[0, 0]} {points[0, 1]}l{body}z"
