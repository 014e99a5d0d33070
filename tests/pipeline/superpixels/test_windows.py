"""Superpixels of local windows: cores tile, tokens of windows never overlap, there are more of them."""

from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.datasets.scenes.make import make_scene
from svp.pipeline.errors import ConfigError
from svp.pipeline.masks.rle import decode
from svp.pipeline.precompute.cost_model import tflop
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.recipe import GridConfig, SuperpixelConfig, parse_recipe
from svp.pipeline.records import LocalPaths
from svp.pipeline.superpixels.generator import build_generator
from svp.pipeline.superpixels.windows import cores, windows


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [(120, 160), (160, 121), (480, 640), (33, 97)])
def test_cores_tile_the_image(size: tuple[int, int], layers: int) -> None:
    boxes = windows(*size, GridConfig(crop_n_layers=layers))
    seen = np.zeros(size, np.int64)
    for box, (x0, y0, x1, y1) in zip(boxes, cores(boxes), strict=True):
        assert box.x0 <= x0 < x1 <= box.x1 and box.y0 <= y0 < y1 <= box.y1
        seen[y0:y1, x0:x1] += 1
    assert len(boxes) == 4**layers and (seen == 1).all()


def test_an_image_too_thin_to_cut_is_one_window() -> None:
    (box,) = windows(1, 300, GridConfig(crop_n_layers=3))
    assert box.box == (0, 0, 300, 1) and cores([box]) == [(0, 0, 300, 1)]


def test_windows_see_what_the_whole_image_hides() -> None:
    """On a scene: more superpixels, each inside one core, the embedding still the whole image's."""
    grid = GridConfig(points_per_side=6, crop_n_layers=1)
    image = make_scene(21, 0, "val").image
    config = SuperpixelConfig(preset="windows", grid=grid)
    plain = SuperpixelConfig(preset="custom", grid=grid.model_copy(update={"crop_n_layers": 0}))
    (found,), fine = build_generator(config, LocalPaths(Path())).generate_batch(
        [image], embeddings=True
    )
    (whole,), coarse = build_generator(plain, LocalPaths(Path())).generate_batch(
        [image], embeddings=True
    )
    assert fine is not None and coarse is not None and np.array_equal(fine[0], coarse[0])
    assert len(found) > 1.5 * len(whole)
    boxes = windows(*image.shape[:2], grid)
    inside = {box.box: core for box, core in zip(boxes, cores(boxes), strict=True)}
    for rle, crop, area, box in zip(found.masks(), found.crop, found.area, found.box, strict=True):
        x0, y0, x1, y1 = inside[tuple(crop.tolist())]
        mask = decode(rle)
        assert mask.sum() == area == mask[y0:y1, x0:x1].sum() > 0
        assert x0 <= box[0] <= box[2] < x1 and y0 <= box[1] <= box[3] < y1
    assert {tuple(crop) for crop in found.crop.tolist()} == {box.box for box in boxes}
    few = build_generator(config.model_copy(update={"max_superpixels": 5}), LocalPaths(Path()))
    (cut,), _ = few.generate_batch([image])
    assert sorted(cut.area) == sorted(found.area)[-5:]


def test_the_preset_from_flags_and_its_price() -> None:
    recipe, _ = resolve("tiny", None, Flags(preset="windows", points_per_side=8), (), Path())
    assert recipe.superpixels.preset == "windows"
    assert (
        recipe.superpixels.grid.points_per_side == 8 and recipe.superpixels.grid.crop_n_layers == 1
    )
    again, _ = resolve(
        "tiny", None, Flags(), ("superpixels.preset=windows",
        "superpixels.grid={crop_n_layers: 1, points_per_side: 8}"), Path(),
    )  # fmt: skip
    assert again == recipe
    single, _ = resolve("tiny", None, Flags(points_per_side=8), (), Path())
    fine, coarse = (tflop(sized_plan(one)) for one in (recipe, single))
    assert fine["sam encoder"] == pytest.approx(5 * coarse["sam encoder"])
    assert fine["sam decoder"] == pytest.approx(4 * coarse["sam decoder"])
    with pytest.raises(ConfigError, match="windows needs grid.crop_n_layers"):
        parse_recipe({"superpixels": {"preset": "windows"}}, "recipe")
