"""Rows computed on demand are those of the cache, through one interface."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from support import fake_run
from support.fake_run import RECIPE, FakeEncoder, FakeSource, Pixels, write_images
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.row_reader import RowReader
from svp.pipeline.encoders.encoder import Features
from svp.pipeline.errors import CacheError
from svp.pipeline.records import LocalPaths
from svp.pipeline.superpixels.budget import RULES, Described
from svp.train.data.live_cache import LiveReader
from svp.train.runs.dry_run import _counts


class OneByOne(FakeEncoder):
    """The fake encoder takes whole batches only."""

    def encode(self, images: Sequence[Pixels]) -> Features:
        return super().encode([images[0]] * RECIPE.batch)


def live(cache: Path, images: Path) -> LiveReader:
    source, encoder = FakeSource(0.0, {}, images), OneByOne({})
    return LiveReader(cache, LocalPaths(images), "cpu", source, encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", ["float16", "int8", "mean+int4"])
def test_live_rows_are_the_stored_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    fake_run.install(monkeypatch)
    images = tmp_path / "images"
    write_images(images, 3)
    features = RECIPE.features.model_copy(update={"stored": stored})
    recipe = RECIPE.model_copy(update={"features": features})
    fake_run.run(tmp_path / "c", images, recipe=recipe)
    readers: list[RowReader] = [CacheReader(tmp_path / "c"), live(tmp_path / "c", images)]
    a, b = readers
    for row in range(len(a)):
        assert a.count(row) == b.count(row) == a.counts[row] == len(b.superpixels(row))
        into = np.empty_like(a.features(row))
        for name in ("features", "cover", "sspe_masks", "areas"):
            np.testing.assert_array_equal(getattr(a, name)(row), getattr(b, name)(row))
        np.testing.assert_array_equal(b.features(row, into), a.features(row))
        one, two = a.superpixels(row), b.superpixels(row)
        assert one.rles == two.rles and one.survivors == two.survivors
        np.testing.assert_array_equal(one.box, two.box)
    for reader in readers:
        with pytest.raises(CacheError, match="stores no array cls"):
            reader.cls(0)


def test_without_a_prior_superpixels_are_ordered_by_k_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run.install(monkeypatch)
    images = tmp_path / "images"
    write_images(images, 3)
    fake_run.run(tmp_path / "c", images)
    reader = live(tmp_path / "c", images)
    for row in range(len(reader)):
        features, cover = (one(row).astype(np.float64) for one in (reader.features, reader.cover))
        means = (cover @ features) / cover.sum(1, keepdims=True)
        alike = np.ones(len(cover))
        want = RULES["k-centre"](Described(means.astype(np.float16), reader.areas(row), alike))
        np.testing.assert_array_equal(reader.order(row), want)
        assert set(reader.worth(row)) == {1}


def test_live_means_are_those_of_a_thin_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run.install(monkeypatch)
    images = tmp_path / "images"
    write_images(images, 3)
    features = RECIPE.features.model_copy(update={"stored": "mean"})
    recipe = RECIPE.model_copy(update={"features": features})
    fake_run.run(tmp_path / "c", images, recipe=recipe)
    stored, made = CacheReader(tmp_path / "c"), live(tmp_path / "c", images)
    for row in range(len(stored)):
        assert stored.pooled(row).any()
        for name in ("pooled", "cover", "sspe_masks"):
            np.testing.assert_array_equal(getattr(stored, name)(row), getattr(made, name)(row))


def test_rows_that_no_shard_holds_are_counted_when_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run.install(monkeypatch)
    images = tmp_path / "images"
    write_images(images, 2)
    fake_run.run(tmp_path / "c", images)
    for name in ("COMPLETE", "manifest/0.json"):
        for path in (tmp_path / "c").glob(f"*/*/{name}"):
            path.unlink()
    reader = live(tmp_path / "c", images)
    assert CacheReader(tmp_path / "c").status(1) == "missing" and reader.status(1) == "ok"
    assert reader.counts.tolist() == [0, 0], "an array, as of any cache"
    assert _counts((reader,)).tolist() == [40], "a dry run takes the paper's mean then"
    assert reader.most(1) == reader.plan.k >= reader.count(1) > 0
