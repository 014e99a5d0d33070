"""SLIC: a tiling of the image, calibrated, deterministic."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.doctor.weight_search import needed_weights
from svp.pipeline.errors import ConfigError, DataError, MissingPackageError
from svp.pipeline.masks import rle
from svp.pipeline.precompute.cost_model import tflop
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import Content, sized_plan
from svp.pipeline.precompute.run import RunOptions, precompute
from svp.pipeline.recipe import SlicConfig, SuperpixelConfig
from svp.pipeline.records import WHOLE, LocalPaths
from svp.pipeline.superpixels.generator import build_generator
from svp.pipeline.superpixels.slic import calibrate, slic_labels, slic_superpixels
from svp.train.data.live_cache import LiveReader
from svp.train.evaluation.upper_bounds import point_decoder

data = pytest.importorskip("skimage.data")


def photographs() -> list[NDArray[np.uint8]]:
    return [data.astronaut()[::3, ::3], data.coffee()[::3, ::3], data.chelsea()[::3, ::3]]


def test_the_superpixels_tile_the_photograph() -> None:
    image = photographs()[1]
    found = slic_superpixels(image)
    masks = np.stack([rle.decode(mask) for mask in found.masks()])
    assert (masks.sum(0) == 1).all()
    labels = slic_labels(image, SlicConfig())
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, labels == number)
    assert found.area.tolist() == masks.sum((1, 2)).tolist()
    ys, xs = np.nonzero(masks[3])
    np.testing.assert_allclose(found.point[3], [xs.mean(), ys.mean()], rtol=1e-6)
    assert found.box[3].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    assert set(found.level.tolist()) == {WHOLE}
    assert not found.fallback


def test_same_image_same_bytes() -> None:
    image = photographs()[0]
    assert slic_superpixels(image).rles == slic_superpixels(image.copy()).rles


def test_calibration_reaches_a_mean_of_forty_on_photographs() -> None:
    config, mean = calibrate(photographs())
    counts = [len(slic_superpixels(image, config)) for image in photographs()]
    assert np.mean(counts) == pytest.approx(mean)
    assert mean == pytest.approx(40, abs=1.5)


def test_the_default_gives_about_forty() -> None:
    counts = [len(slic_superpixels(image)) for image in photographs()]
    assert 30 <= np.mean(counts) <= 50


def test_the_cap_drops_the_smallest() -> None:
    image = photographs()[2]
    full = slic_superpixels(image)
    found = slic_superpixels(image, max_superpixels=10)
    assert sorted(found.area) == sorted(full.area)[-10:]
    assert found.survivors == {"labels": len(full), "kept": 10}


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 9)])
def test_thin_images_work(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert slic_superpixels(image).area.sum() == size[0] * size[1]


def test_source_from_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SuperpixelConfig(source="slic", slic=SlicConfig(n_segments=20))
    source = build_generator(config, LocalPaths(images=Path()), "cpu")
    images = photographs()
    found, embeddings = source.generate_batch(images)
    assert [len(one) for one in found] == [len(slic_superpixels(i, config.slic)) for i in images]
    assert embeddings is None
    with pytest.raises(ConfigError, match="built without SAM"):
        source.generate_batch(images, embeddings=True)
    with pytest.raises(DataError, match=r"\(5, 5\) uint8"):
        source.generate_batch([np.zeros((5, 5), np.uint8)])
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingPackageError, match=r"svp\[slic\]"):
        build_generator(config, LocalPaths(images=Path()), "cpu")


def test_sam_embeddings_beside_slic(tmp_path: Path) -> None:
    """A cache of SLIC superpixels with the embedding that a SAM cache of the same images holds."""
    source = open_dataset(write_scenes(tmp_path / "scenes", images=10, seed=4), split="train")
    content = Content(source.images[:2], "train", source.sha256)
    options = RunOptions(workers=0)
    made = {}
    for name, flags in (
        ("slic", Flags(superpixels="slic", store_sam_embeddings=True)),
        ("sam", Flags(points_per_side=3, store_sam_embeddings=True)),
    ):
        recipe, where = resolve("tiny", None, flags, (), source.image_root)
        precompute(content, recipe, where, tmp_path / name, options, quiet=True)
        made[name] = CacheReader(tmp_path / name, "always")
    slic, sam = made["slic"], made["sam"]
    assert slic.plan.sam == sam.plan.sam == (64, 16, 16)
    assert "segment-anything" in slic.plan.recipe.libraries
    for row in range(2):
        assert np.array_equal(slic.sam(row), sam.sam(row))
        found = slic.superpixels(row)
        assert found.area.sum() == found.height * found.width, "SLIC tiles the image"
    assert point_decoder(slic, None, "cpu") is not None
    live = LiveReader(tmp_path / "slic", where, "cpu")
    assert np.array_equal(live.sam(1), slic.sam(1))


def test_which_sam_stands_beside_slic() -> None:
    """The size's own, if an embedding is stored; else none, and none is in the digest."""
    beside = Flags(superpixels="slic", store_sam_embeddings=True, encoder_weights="random",
                   sam_weights="random:3")  # fmt: skip
    recipe, _ = resolve("paper", None, beside, (), Path())
    assert (recipe.superpixels.model, str(recipe.superpixels.weights)) == ("vit_h", "random:3")
    plan = sized_plan(recipe)
    assert plan.sam == (256, 64, 64) and tflop(plan)["sam encoder"] == pytest.approx(5.96)
    assert "sam decoder" not in tflop(plan), "nothing is prompted"
    assert [need.name for need in needed_weights(recipe)] == [
        "superpixels vit_h", "encoder dinov2-large"
    ]  # fmt: skip
    alone = Flags(superpixels="slic", encoder_weights="random")
    for size in ("paper", "small"):
        bare, where = resolve(size, None, alone, (), Path())
        assert (bare.superpixels.model, str(bare.superpixels.weights)) == ("tiny", "shipped")
        assert where.sam is None and "sam encoder" not in tflop(sized_plan(bare))
