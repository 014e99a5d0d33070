"""Hierarchical prompting: every second point first, the others where no sure whole lies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from svp.pipeline.bench.prompt_modes import agreement
from svp.pipeline.cache.layers import SUPERPIXELS
from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.recipe import GridConfig, SuperpixelConfig
from svp.pipeline.records import WHOLE, LocalPaths
from svp.pipeline.sam.mask_decoder import Wanted
from svp.pipeline.sam.preprocess import target_size
from svp.pipeline.superpixels.crops import Crop, crop_points
from svp.pipeline.superpixels.generator import build_generator
from svp.pipeline.superpixels.point_grid import GridPrompter

SIDE, GRID = 128, 16
IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


class Rectangles:
    """A SAM whose whole mask at a point is the rectangle (x0, y0, x1, y1) that the point lies in.

    rectangles  with predicted IoU and the logit inside; outside it is -8
    """

    image_size, channels, report = SIDE, 1, None

    def __init__(self, *rectangles: tuple[tuple[int, int, int, int], float, float]) -> None:
        self.rectangles = rectangles
        self.prompted: list[tuple[float, float]] = []

    def frame(self, height: int, width: int) -> tuple[int, int]:
        return target_size(height, width, SIDE)

    def embed(self, images: object) -> Tensor:
        return torch.zeros(1, 1, 1, 1)

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        low = torch.full((len(points), 3, SIDE // 2, SIDE // 2), -8.0)
        iou = torch.zeros(len(points), 3)
        for row, (x, y) in enumerate(points.tolist()):
            self.prompted.append((x, y))
            for (x0, y0, x1, y1), score, logit in self.rectangles:
                if x0 <= x < x1 and y0 <= y < y1:
                    low[row, WHOLE, y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] = logit
                    iou[row, WHOLE] = score
        return low if wanted is None else low[wanted(iou)], iou


def grid() -> NDArray[np.float64]:
    return crop_points(Crop(0, 0, SIDE, SIDE), GRID, 2)


def in_box(points: NDArray[np.float64], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    (x, y), (x0, y0, x1, y1) = points.T, box
    return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


SURE, UNSURE, UNSTABLE = (8, 8, 72, 56), (80, 8, 120, 56), (8, 72, 120, 120)


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_all_points_without_a_sure_whole_are_prompted_once_and_no_others(chunk: int) -> None:
    """A whole of low predicted IoU passes by its bonus, and an unstable one is none: neither is sure."""
    sam = Rectangles((SURE, 0.95, 8.0), (UNSURE, 0.80, 8.0), (UNSTABLE, 0.95, 0.5))
    prompter = GridPrompter(
        sam, config=GridConfig(points_per_side=GRID), points_per_batch=chunk, hierarchical=True
    )
    found = prompter.generate(IMAGE)
    points = grid()
    number = np.arange(len(points))
    first = (number % GRID % 2 == 0) & (number // GRID % 2 == 0)
    left_out = in_box(points, SURE) & ~first
    wanted = {tuple(point) for point in points[~left_out].tolist()}
    assert len(sam.prompted) == len(set(sam.prompted)) == len(wanted)
    assert set(sam.prompted) == wanted
    assert sam.prompted[: first.sum()] == [tuple(point) for point in points[first].tolist()]
    assert 0 < left_out.sum() < len(points) - first.sum()
    assert found.survivors["decoded"] == 3 * len(wanted)
    assert sorted(found.box.tolist()) == [[8, 8, 71, 55], [80, 8, 119, 55]]


def test_an_image_without_any_sure_whole_gets_the_whole_grid() -> None:
    sam = Rectangles()
    config = GridConfig(points_per_side=5)
    assert GridPrompter(sam, config=config, hierarchical=True).generate(IMAGE).fallback
    assert len(set(sam.prompted)) == len(sam.prompted) == 25


def test_the_same_bytes_whatever_the_batches_and_fewer_prompts_than_the_grid() -> None:
    images = [make_scene(9100, index, "testA").image for index in range(3)]
    images[1] = np.ascontiguousarray(images[1][:90])
    config = SuperpixelConfig(preset="hierarchical", grid=GridConfig(points_per_side=GRID))
    here = LocalPaths(images=Path())
    found, _ = build_generator(config, here).generate_batch(images)
    again, _ = build_generator(config, here).generate_batch(images)
    small = build_generator(config.model_copy(update={"points_per_batch": 40}), here)
    for index, one in enumerate(found):
        ((alone,), _) = small.generate_batch([images[index]])
        for other in (again[index], alone):
            assert other.rles == one.rles
            assert np.array_equal(other.predicted_iou, one.predicted_iou)
            assert dict(other.survivors) == dict(one.survivors)
        assert 3 * GRID**2 // 4 <= one.survivors["decoded"] < 3 * GRID**2
        assert len(one) > 2


def test_it_is_a_recipe_of_its_own() -> None:
    made, _ = resolve("tiny", None, Flags(preset="hierarchical", points_per_side=8), (), Path())
    plain, _ = resolve("tiny", None, Flags(points_per_side=8), (), Path())
    assert made.superpixels.preset == "hierarchical"
    assert made.superpixels.grid == plain.superpixels.grid
    ours, theirs = (sized_plan(recipe).layer(SUPERPIXELS) for recipe in (made, plain))
    assert ours.id != theirs.id
    assert "hierarchical" in ours.folder and "hierarchical" not in theirs.folder


def test_agreement_counts_partners_both_ways() -> None:
    sam = Rectangles((SURE, 0.95, 8.0), (UNSURE, 0.95, 8.0))
    config = GridConfig(points_per_side=GRID)
    both = GridPrompter(sam, config=config).generate(IMAGE)
    assert len(both) == 2
    one = replace(
        both, rles=both.rles[:1], survivors={**both.survivors, "decoded": 3 * GRID**2 // 4},
        **{name: getattr(both, name)[:1] for name in (
            "level", "predicted_iou", "stability", "area", "box", "point", "crop")},
    )  # fmt: skip
    assert agreement([both], [both]) == {
        "images": 1, "found": 1, "real": 1, "mean_dense": 2, "mean_other": 2,
        "prompts": GRID**2, "saved": 0,
    }  # fmt: skip
    assert agreement([both, both], [both, one]) == {
        "images": 2, "found": 0.75, "real": 1, "mean_dense": 2, "mean_other": 1.5,
        "prompts": GRID**2 * 5 / 8, "saved": 3 / 8,
    }  # fmt: skip
