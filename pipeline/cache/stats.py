"""Statistics of a cache: tokens per image, coverage, overlap, levels, quarantine, bytes.

Counts are over all committed images. What needs the masks (coverage, overlap) is exact to the pixel
and taken from at most `sample` images spread evenly over the cache; the report says how many.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..display import Report, counted
from ..masks.rle_codec import check_runs
from ..records import Superpixels
from ..store import Place
from .index import BAD, GOOD
from .manifest import read_committed
from .reader import CacheReader

LEVELS = ("sub-part", "part", "whole")
SAMPLE = 2000


# The selection's steps in order, as `Superpixels.survivors` names them.
STEPS = ("decoded", "score", "stability", "edge", "box_nms", "crop_nms", "clean", "filter", "kept")


@dataclass(frozen=True)
class Spread:
    """Mean and quantiles of one quantity."""

    mean: float
    p50: float
    p95: float
    max: float

    def line(self, digits: int) -> str:
        """`mean 16.2, median 16.0, p95 22.0, max 25.0`."""
        mean, p50, p95, most = (
            f"{value:.{digits}f}" for value in (self.mean, self.p50, self.p95, self.max)
        )
        return f"mean {mean}, median {p50}, p95 {p95}, max {most}"


@dataclass(frozen=True)
class StatsReport(Report):
    """Figures of a cache; shares are in 0..1 of the image's pixels.

    histogram  superpixels per image -> images
    survivors  selection step -> masks left, summed over all images
    bytes      array -> bytes in committed shards
    sampled    images behind coverage, overlap, area and levels
    """

    cache: str
    images: int
    ok: int
    missing: int
    quarantined: Mapping[str, int]
    fallback: int
    tokens: Spread
    histogram: Mapping[int, int]
    survivors: Mapping[str, int]
    bytes: Mapping[str, int]
    sampled: int
    coverage: Spread
    overlap: Spread
    area: Spread
    levels: Mapping[str, int]

    def lines(self) -> list[str]:
        bad = sum(self.quarantined.values())
        lines = [
            (
                f"cache {self.cache[:12]}: {self.ok:,} of {counted(self.images, 'image')}, {bad} "
                "quarantined, "
            )
            + f"{self.missing} missing, {self.fallback} of one full-image superpixel",
            f"superpixels per image: {self.tokens.line(1)}",
            (
                f"covered share of an image: {self.coverage.line(3)} "
                f"({counted(self.sampled, 'image')} looked at)"
            ),
            f"share under more than one: {self.overlap.line(3)}",
            f"area of a superpixel, share: {self.area.line(4)}",
            "levels: " + ", ".join(f"{n} {name}" for name, n in self.levels.items()),
            "left after each step: " + ", ".join(f"{k} {self.survivors.get(k, 0)}" for k in STEPS),
            "bytes: " + ", ".join(f"{name} {n:,}" for name, n in self.bytes.items()),
        ]
        return lines + [f"quarantined: {n} x {why}" for why, n in sorted(self.quarantined.items())]


def stats(path: Place, sample: int = SAMPLE) -> StatsReport:
    """Figures of the cache at `path`. Raises MissingError, CacheError."""
    reader = CacheReader(path)
    plan, rows = reader.plan, reader.rows
    good = np.flatnonzero(rows.status == GOOD)
    counts = rows.k[good]
    survivors: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for manifests in read_committed(reader.path, plan).sound.values():
        for manifest in manifests.values():
            sizes.update({name: file.bytes for name, file in manifest.files.items()})
            survivors.update({step: sum(left) for step, left in manifest.survivors.items()})
    step = max(1, -(-len(good) // max(1, sample)))
    seen = [reader.superpixels(int(i)) for i in good[::step]]
    depths = [cover_and_overlap(found) for found in seen]
    levels = Counter(int(level) for found in seen for level in found.level)
    return StatsReport(
        cache=plan.id,
        images=len(plan.images),
        ok=len(good),
        missing=int((rows.status != GOOD).sum() - (rows.status == BAD).sum()),
        quarantined=dict(Counter(reason for reason, _ in rows.bad.values())),
        fallback=len(rows.fallback),
        tokens=_spread(counts),
        histogram=dict(sorted(Counter(counts.tolist()).items())),
        survivors=dict(survivors),
        bytes=dict(sizes),
        sampled=len(seen),
        coverage=_spread(covered for covered, _ in depths),
        overlap=_spread(overlapped for _, overlapped in depths),
        area=_spread(a / (found.height * found.width) for found in seen for a in found.area),
        levels={name: levels[code] for code, name in enumerate(LEVELS)},
    )


def cover_and_overlap(found: Superpixels) -> tuple[float, float]:
    """Shares of the image's pixels under at least one, and at least two superpixels.

    Raises DataError if a mask is malformed.
    """
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    for counts in found.rles:
        edges = np.cumsum(check_runs(counts, found.height, found.width))
        starts.append(edges[0:-1:2])
        ends.append(edges[1::2])
    start, end = np.concatenate(starts), np.concatenate(ends)
    position = np.concatenate([start, end])
    order = np.argsort(position, kind="stable")
    change = np.concatenate([np.ones(len(start), np.int64), np.full(len(end), -1)])[order]
    depth, length = np.cumsum(change)[:-1], np.diff(position[order])
    pixels = found.height * found.width
    return float(length[depth >= 1].sum() / pixels), float(length[depth >= 2].sum() / pixels)


def _spread(values: Iterable[float] | NDArray[np.uint16]) -> Spread:
    data = np.fromiter(values, float)
    if not data.size:
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p95 = np.quantile(data, [0.5, 0.95]).tolist()
    return Spread(float(data.mean()), p50, p95, float(data.max()))
