"""Statistics against slow, obvious recomputation."""

from typing import Any

import numpy as np
import pytest

from svp.pipeline.cache.stats import cover_and_overlap, stats
from svp.pipeline.errors import DataError
from svp.pipeline.masks.rle import decode
from svp.pipeline.records import ImageRow


def test_figures_equal_a_recount(cache: Any) -> None:
    report = stats(cache.path)
    rows = [row for row in cache.rows if isinstance(row, ImageRow)]
    counts = [len(row.superpixels) for row in rows]
    assert (report.images, report.ok, report.missing, report.sampled) == (10, 9, 0, 9)
    assert report.quarantined == {"truncated": 1}
    assert report.fallback == sum(n == 1 for n in counts)
    assert report.tokens.mean == pytest.approx(np.mean(counts))
    assert report.tokens.p50 == np.median(counts)
    assert report.tokens.max == max(counts)
    assert report.histogram == {n: counts.count(n) for n in sorted(set(counts))}
    assert report.survivors == {"score": 3 * sum(counts), "nms": sum(counts)}
    depth = [np.sum([decode(mask) for mask in row.superpixels.masks()], axis=0) for row in rows]
    assert report.coverage.mean == pytest.approx(np.mean([(d >= 1).mean() for d in depth]))
    assert report.overlap.max == pytest.approx(np.max([(d >= 2).mean() for d in depth]))
    levels = np.concatenate([row.superpixels.level for row in rows])
    assert list(report.levels.values()) == [(levels == code).sum() for code in range(3)]
    areas = np.concatenate([row.superpixels.area for row in rows]) / 120
    assert report.area.mean == pytest.approx(areas.mean())
    dino = sum(
        path.stat().st_size
        for path in (cache.path / "features/tiny-128/dino/c").rglob("*")
        if path.is_file()
    )
    assert report.bytes["dino"] == dino


def test_a_cache_under_construction_and_a_sample(made: Any) -> None:
    made.write([1, 2])
    report = stats(made.path, sample=2)
    assert (report.ok, report.missing, report.sampled) == (6, 4, 2)
    assert report.quarantined == {}


def test_nothing_committed_yet(made: Any) -> None:
    made.write([])
    report = stats(made.path)
    assert (report.ok, report.missing, report.tokens.max) == (0, 10, 0)


def test_a_malformed_mask_is_refused_before_it_is_counted(cache: Any) -> None:
    import dataclasses

    found = dataclasses.replace(cache.rows[0].superpixels, rles=(b"52203",))
    with pytest.raises(DataError, match="sum to"):
        cover_and_overlap(found)
