"""The store bench on a handful of tiny images: it measures every reader and reports honestly."""

from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.bench.cache_speed import block_shuffle, run
from svp.pipeline.bench.synthetic_cache import bench_features, make_cache, write_npy
from svp.pipeline.bench.targets import Target
from svp.pipeline.cache import CacheReader


def test_a_small_run_reports_every_goal_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bench = run(images=6, shape=(4, 8), reps=1, shards=2, folder=tmp_path / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
    assert set(bench.rates) == {
        "npy memmap",
        "npy preadv",
        "ours, no verify",
        "ours, verify",
        "zarr-python a[i]",
    }
    text = "\n".join(bench.lines())
    for target in bench.targets:
        assert target.name in text
    assert len(bench.targets) == 8
    assert "MosaicML not measured" in text
    assert bench.passed == ("FAIL" not in text)


def test_all_baselines_read_the_same_bytes(tmp_path: Path) -> None:
    features = bench_features(5, (4, 8))
    make_cache(tmp_path / "cache", features)
    write_npy(tmp_path / "x.npy", features)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), features)
    reader = CacheReader(tmp_path / "cache")
    np.testing.assert_array_equal([reader.features(i) for i in range(5)], features)


@pytest.mark.parametrize("images", [64, 100, 384])
def test_block_shuffle_visits_each_image_once_and_mixes_pairs_of_shards(images: int) -> None:
    order = block_shuffle(images)
    assert sorted(order) == list(range(images)) != order
    if images == 384:
        assert [len({i // 64 for i in order[b : b + 128]}) for b in (0, 128, 256)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("kind", "value", "passed"), [(">=", 2.0, True), (">=", 1.9, False), ("<=", 2.1, False)]
)
def test_a_goal_that_is_missed_says_so(kind: str, value: float, passed: bool) -> None:
    target = Target("speed", value, kind, 2.0)
    assert target.passed == passed
    assert target.line().startswith("pass" if passed else "FAIL")
