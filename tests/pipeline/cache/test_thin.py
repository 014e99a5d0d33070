"""Thin caches: means of superpixels for features; a copy has the bytes of what is computed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.small_cache import Made
from svp.pipeline.cache import CacheReader, create_cache, verify, write_shard
from svp.pipeline.cache.exchange import copy_cache, drop_layers
from svp.pipeline.cache.info import info
from svp.pipeline.cache.int4 import superpixel_means
from svp.pipeline.cache.layout import shard_key
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.row_tier import RowTier
from svp.pipeline.cache.stats import stats
from svp.pipeline.cache.thin import thin_plan
from svp.pipeline.errors import CacheError, ConfigError
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import ImageRow, Quarantined
from svp.pipeline.store import MemoryStore, open_store

Tree = Callable[[Path], dict[str, bytes]]
FULL: dict[str, Any] = {"bad": [2], "layers": (1, 2), "cls": True}


def finished(made: Any) -> Any:
    made.write()
    made.finish()
    return made


def refusing(row: ImageRow, kind: str, **gone: None) -> ImageRow:
    bad = Quarantined(row.image_id, "nonfinite_features", f"{kind} says so")
    return dataclasses.replace(row, refused={kind: bad}, **gone)


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_a_thin_cache_holds_means_of_every_map_and_no_patch(
    maker: Callable[..., Any], layers: tuple[int, ...]
) -> None:
    made = finished(maker(stored="mean", sam_stored="int8", layers=layers))
    kinds = [layer.kind for layer in made.plan.layers]
    assert kinds == ["superpixels", "cover", "pooled", "sam"]
    reader = CacheReader(made.path)
    for i, row in enumerate(made.rows):
        maps = [row.patches, *(row.layers if layers else ())]
        wanted = np.hstack([superpixel_means(row.cover, one) for one in maps])
        np.testing.assert_array_equal(reader.pooled(i), wanted)
    for read in (reader.features, reader.layers):
        with pytest.raises(CacheError, match=r"stores no array .*: add it with `svp cache add`"):
            read(0)


def test_the_means_are_the_layer_of_a_full_cache(maker: Callable[..., Any]) -> None:
    full, thin = maker(pooled=True), maker(stored="mean")
    assert full.plan.layer("pooled") == thin.plan.layer("pooled")
    with pytest.raises(ValueError, match="stored=mean stores the means already"):
        FeatureConfig(stored="mean", pooled=True)


@pytest.mark.parametrize("address", [False, True], ids=["folder", "address"])
def test_a_thin_copy_has_the_bytes_of_what_is_computed(
    maker: Callable[..., Any], tmp_path: Path, tree_of: Tree, address: bool
) -> None:
    """Also where an image is bad in one layer alone, and after a copy that was interrupted."""
    full = maker(**FULL)
    full.rows[4] = refusing(full.rows[4], "features", patches=None)
    full.rows[5] = refusing(full.rows[5], "layers", layers=None)
    full.rows[6] = refusing(full.rows[6], "sam", sam=None)
    finished(full)
    out: Any = open_store(f"memory://thin-copy-{tmp_path.name}") if address else tmp_path / "copy"
    plan = copy_cache(full.path, out, thin=True)
    assert plan.recipe.features == full.plan.recipe.features.model_copy(update={"stored": "mean"})
    assert plan.recipe.sam_stored == "int8" and plan == thin_plan(plan) == Plan.load(out)
    assert verify(out, full=True).ok and CacheReader(out).complete

    computed = maker()
    computed.plan, computed.rows = plan, full.rows
    finished(computed)
    wanted = tree_of(computed.path)
    names = {key for key, _ in open_store(out).sizes("") if not key.startswith("logs/")}
    assert names == wanted.keys()
    for key, data in wanted.items():
        assert open_store(out).read(key, 1 << 30) == data, key

    manifest = f"{plan.layer('pooled').folder}/manifest/1.json"
    open_store(out).delete(manifest)
    copy_cache(full.path, out, thin=True)
    assert open_store(out).read(manifest, 1 << 20) == wanted[manifest]


@pytest.mark.parametrize("tiered", [False, True])
def test_means_of_an_address_come_by_the_row(
    maker: Callable[..., Any], tmp_path: Path, tiered: bool
) -> None:
    """With the requests of a batch in flight; a tier keeps them with their shard. Damage is told."""
    made = finished(maker(stored="mean", sam_stored="int8", bad=[2]))
    plain = CacheReader(made.path)
    place = MemoryStore(f"means-{tmp_path.name}")
    copy_cache(made.path, place)
    rows, shape = [7, 0, 5, 0], made.plan.layer("pooled").arrays[0].row
    for _ in range(2):
        tier = RowTier(tmp_path / "tier", 10**8) if tiered else None
        reader = CacheReader(place, tier=tier)
        out = [np.full(shape, np.nan, np.float16) for _ in rows]
        reader.gather(rows, {"pooled": out})
        for i, found in zip(rows, out, strict=True):
            n = plain.count(i)
            np.testing.assert_array_equal(found[:n], plain.pooled(i))
            assert not found[n:].any()
            np.testing.assert_array_equal(reader.pooled(i), plain.pooled(i))
        if tier is not None:
            tier.settle()
    key = shard_key(made.plan.layer("pooled").arrays[0], 1)
    data = bytearray(place.read(key, 1 << 20))
    data[20] ^= 1
    place.replace(key, bytes(data))
    with pytest.raises(CacheError, match=r"image 29 \(row 4\): .*cannot be decompressed"):
        CacheReader(place).gather([4], {"pooled": [np.empty(shape, np.float16)]})


def test_what_is_there_in_the_thin_form_is_copied(
    maker: Callable[..., Any], tmp_path: Path
) -> None:
    """The means of features in fewer bits are those of the exact ones; so SAM's embedding."""
    small = finished(maker(stored="mean+int4", sam_stored="int8"))
    plan = copy_cache(small.path, tmp_path / "copy", thin=True)
    kept = CacheReader(tmp_path / "copy")
    for i in range(len(kept)):
        np.testing.assert_array_equal(kept.pooled(i), CacheReader(small.path).pooled(i))
    again = copy_cache(
        tmp_path / "copy", tmp_path / "again", ["superpixels", "cover", "pooled"], thin=True
    )
    assert [layer.kind for layer in again.layers] == ["superpixels", "cover", "pooled"]
    assert again.layer("pooled") == plan.layer("pooled")


def test_no_mean_is_made_of_features_in_fewer_bits(
    maker: Callable[..., Any], tmp_path: Path
) -> None:
    for stored, layers, remedy in (
        ("int8", (), r"`svp cache add .* pooled`"),
        ("mean+int4", (1, 2), "`svp precompute --thin`"),
    ):
        made = finished(maker(stored=stored, layers=layers))
        with pytest.raises(ConfigError, match=remedy):
            copy_cache(made.path, tmp_path / "x", thin=True)
    assert not (tmp_path / "x").exists()


def test_means_that_were_added_to_features_in_fewer_bits_are_taken(
    maker: Callable[..., Any], tmp_path: Path
) -> None:
    """The remedy of a refusal: `svp cache add` leaves the cache's first plan as it was."""
    made = finished(maker(stored="int8"))
    features = made.plan.recipe.features.model_copy(update={"pooled": True})
    recipe = made.plan.recipe.model_copy(update={"features": features})
    added = Made(made.path, dataclasses.replace(made.plan, recipe=recipe), made.rows)
    create_cache(made.path, added.plan, view=True)
    finished(added)
    assert len(all_plans(made.path)) == 2 and not Plan.load(made.path).recipe.features.pooled
    copied = copy_cache(made.path, tmp_path / "thin", thin=True)
    assert copied.thin and copied.layer("pooled") == added.plan.layer("pooled")
    stored = CacheReader(made.path, view=list(all_plans(made.path))[1])
    for i in range(len(stored)):
        np.testing.assert_array_equal(CacheReader(tmp_path / "thin").pooled(i), stored.pooled(i))


def test_embeddings_that_were_added_go_into_the_thin_copy(
    maker: Callable[..., Any], tmp_path: Path
) -> None:
    """Training reads them; without `sam` among `kinds` they stay behind."""
    one = finished(maker())
    two = maker(sam_stored="float16")
    create_cache(one.path, two.plan, view=True)
    finished(Made(one.path, two.plan, two.rows))
    kinds = ["superpixels", "cover", "pooled"]
    assert copy_cache(one.path, tmp_path / "all", thin=True).layer("sam").folder == "sam/tiny-int8"
    less = copy_cache(one.path, tmp_path / "less", kinds, thin=True)
    assert [layer.kind for layer in less.layers] == kinds


def test_a_damaged_row_is_not_made_into_a_mean(maker: Callable[..., Any], tmp_path: Path) -> None:
    full = finished(maker())
    path = next((full.path / "features").glob("*/dino/c/1/0/0"))
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match="row 0 fails its checksum"):
        copy_cache(full.path, tmp_path / "x", thin=True)


def test_commands_read_a_cache_without_features(maker: Callable[..., Any]) -> None:
    made = finished(maker(bad=[2], stored="mean", sam_stored="int8"))
    lines = "\n".join(info(made.path).lines())
    assert (
        "stored as mean of each superpixel alone" in lines
        and "array pooled" in lines
        and "dino" not in lines
    )
    assert "pooled" in stats(made.path).bytes and verify(made.path).ok
    with pytest.raises(ConfigError, match="all that a thin cache has of the features"):
        drop_layers(made.path, ["pooled"])
    assert drop_layers(made.path, ["sam"]) == ["sam/tiny-int8"]
    assert verify(made.path, full=True).ok


def test_means_of_maps_that_another_layer_refused_are_refused(maker: Callable[..., Any]) -> None:
    made = maker(stored="mean", layers=(1, 2))
    create_cache(made.path, made.plan)
    made.rows[1] = refusing(made.rows[1], "layers", layers=None)
    layer = made.plan.layer("pooled")
    written = write_shard(made.path, made.plan, 0, made.shard_rows(0), {}, [layer])
    assert written[layer.folder].bad == [(1, "nonfinite_features", "layers says so")]
