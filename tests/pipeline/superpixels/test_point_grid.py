"""The whole chain from logits to superpixels, against outputs of the published code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks import rle
from svp.pipeline.recipe import GridConfig
from svp.pipeline.records import Superpixels
from svp.pipeline.sam.mask_decoder import Wanted
from svp.pipeline.sam.preprocess import target_size
from svp.pipeline.superpixels.crops import crop_boxes
from svp.pipeline.superpixels.point_grid import GridPrompter

CASES = Path(__file__).parents[2] / "fixtures" / "fma"
Arrays = dict[str, NDArray[Any]]


class Canned:
    """A SAM backend that answers with stored decoder outputs, crop by crop, chunk by chunk.

    "Features" carry the number of the crop, so any encoder batching gives the same answers.
    """

    def __init__(self, low: Tensor, iou: Tensor, prompts: Sequence[int], image_size: int) -> None:
        self.image_size = image_size
        self.report, self.channels = None, 1
        self.low = low.split(list(prompts))
        self.iou = iou.split(list(prompts))
        self.taken = [0] * len(prompts)
        self.encoded = 0
        self.batches: list[int] = []

    def frame(self, height: int, width: int) -> tuple[int, int]:
        return target_size(height, width, self.image_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        self.batches.append(len(images))
        numbers = torch.arange(self.encoded, self.encoded + len(images)) % len(self.low)
        self.encoded += len(images)
        return numbers.float().view(-1, 1, 1, 1)

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        crop = int(features)
        start = self.taken[crop] % len(self.low[crop])
        self.taken[crop] = start + len(points)
        rows = slice(start, start + len(points))
        low, iou = self.low[crop][rows], self.iou[crop][rows]
        return low if wanted is None else low[wanted(iou)], iou


def load(name: str) -> Arrays:
    with np.load(CASES / name, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def config_of(case: Arrays) -> GridConfig:
    given = {k[4:]: case[k].tolist() for k in case if k.startswith("cfg_")}
    return GridConfig(**{k: given[k] for k in GridConfig.model_fields if k in given})


def canned(case: Arrays) -> Canned:
    config = config_of(case)
    sides = [
        int(config.points_per_side / config.crop_n_points_downscale_factor**layer)
        for layer in case["in_crop_layer"].tolist()
    ]
    low = torch.from_numpy(case["in_low_res"].astype(np.float32))
    iou = torch.from_numpy(case["in_iou"])
    return Canned(low, iou, [n * n for n in sides], int(case["cfg_img_size"]))


def image_of(case: Arrays) -> NDArray[np.uint8]:
    return np.zeros((*case["in_hw"].tolist(), 3), np.uint8)


def dense(found: Superpixels) -> NDArray[np.uint8]:
    rows = [rle.decode(mask).astype(bool).ravel() for mask in found.masks()]
    return np.packbits(np.array(rows).reshape(len(rows), -1), axis=1)


@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 1000])
@pytest.mark.parametrize("name", ["gen_00.npz", "gen_03.npz"])
def test_exact_mode_equals_the_published_code(name: str, chunk: int) -> None:
    case = load(name)
    prompter = GridPrompter(
        canned(case), config=config_of(case), points_per_batch=chunk, encoder_batch=2
    )
    found = prompter.generate(image_of(case))
    np.testing.assert_array_equal(dense(found), case["ref_masks"])
    np.testing.assert_array_equal(found.level, case["ref_level"])
    np.testing.assert_array_equal(found.area, case["ref_area"])
    np.testing.assert_array_equal(found.predicted_iou, case["ref_predicted_iou"])
    np.testing.assert_array_equal(found.stability, case["ref_stability_score"])
    np.testing.assert_array_equal(found.point, case["ref_point_coords"].astype(np.float32))
    x0, y0, x1, y1 = found.box.T
    np.testing.assert_array_equal(
        np.stack((x0, y0, x1 - x0, y1 - y0), axis=1), case["ref_bbox_xywh"]
    )
    x0, y0, x1, y1 = found.crop.T
    np.testing.assert_array_equal(
        np.stack((x0, y0, x1 - x0, y1 - y0), axis=1), case["ref_crop_box_xywh"]
    )
    assert not found.fallback
    assert found.survivors["crop_nms"] == len(case["ref_amg_level"])
    assert found.survivors["kept"] == len(case["ref_level"])


def test_nothing_survives_gives_one_flagged_full_image_superpixel() -> None:
    case = load("gen_08_nothing_passes.npz")
    found = GridPrompter(canned(case), config=config_of(case)).generate(image_of(case))
    assert len(case["ref_level"]) == 0
    height, width = case["in_hw"].tolist()
    assert found.fallback and len(found) == 1
    assert found.area.tolist() == [height * width]
    assert found.box.tolist() == [[0, 0, width - 1, height - 1]]
    assert found.survivors["kept"] == 0
    assert rle.decode(found.masks()[0]).all()


def test_fused_up_sampling_keeps_levels_order_and_nearly_all_pixels() -> None:
    for name in ("gen_00.npz", "gen_03.npz"):
        case = load(name)
        prompter = GridPrompter(canned(case), config=config_of(case), mode="fast")
        found = prompter.generate(image_of(case))
        np.testing.assert_array_equal(found.level, case["ref_level"])
        ours, theirs = dense(found), case["ref_masks"]
        same = np.bitwise_count(ours & theirs).sum(1) / np.bitwise_count(ours | theirs).sum(1)
        assert same.min() >= 0.999


@pytest.mark.parametrize("encoder_batch", [1, 4, 64])
def test_images_of_a_batch_do_not_influence_each_other(encoder_batch: int) -> None:
    case = load("gen_03.npz")
    backend = canned(case)
    prompter = GridPrompter(backend, config=config_of(case), encoder_batch=encoder_batch)
    images = [image_of(case)] * 3
    found, embeddings = prompter.generate_batch(images, return_embeddings=True)
    for one in found:
        np.testing.assert_array_equal(dense(one), case["ref_masks"])
    assert max(backend.batches) == min(encoder_batch, 15)
    # The stored embedding is the whole image's (crop 0), not a crop's.
    assert embeddings is not None
    assert [e.tolist() for e in embeddings] == [[[[0.0]]]] * 3
    assert embeddings[0].dtype == np.float16
    assert prompter.generate_batch(images)[1] is None


def test_the_cap_drops_the_smallest_and_counts_them() -> None:
    case = load("gen_03.npz")
    full = GridPrompter(canned(case), config=config_of(case)).generate(image_of(case))
    some = GridPrompter(canned(case), config=config_of(case), max_superpixels=4)
    found = some.generate(image_of(case))
    biggest = set(np.argsort(-full.area, kind="stable")[:4].tolist())
    assert found.rles == tuple(counts for i, counts in enumerate(full.rles) if i in biggest)
    assert found.survivors["filter"] - found.survivors["kept"] == len(full) - 4


class Disc:
    """A backend whose every prompt sees one disc around its point, radius growing by level."""

    image_size = 64
    report, channels = None, 1

    def frame(self, height: int, width: int) -> tuple[int, int]:
        return target_size(height, width, self.image_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return torch.zeros(len(images), 1, 1, 1)

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        away = torch.hypot(x - (points[:, :1, None] / 4 - 0.5), y - (points[:, 1:, None] / 4 - 0.5))
        radius = torch.tensor([2.0, 4.0, 6.0]).view(1, 3, 1, 1)
        return (radius - away[:, None]) * 20, torch.full((len(points), 3), 0.9)


@pytest.mark.parametrize("crop_layers", [0, 1])
@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 5000), (7, 9), (1, 1)])
def test_thin_and_tiny_images_work(size: tuple[int, int], crop_layers: int) -> None:
    config = GridConfig(points_per_side=6, crop_n_layers=crop_layers)
    found = GridPrompter(Disc(), config=config).generate(np.zeros((*size, 3), np.uint8))
    assert len(found) >= 1
    for mask in found.masks():
        assert rle.decode(mask).shape == size
    assert found.area.min() > 0


def test_more_than_ten_megapixels_work() -> None:
    config = GridConfig(points_per_side=2)
    found = GridPrompter(Disc(), config=config).generate(np.zeros((3200, 3300, 3), np.uint8))
    assert len(found) >= 1 and not found.fallback
    assert found.area.sum() > 10**6


def test_zero_thresholds_still_never_give_empty_masks() -> None:
    case = load("gen_08_nothing_passes.npz")
    config = config_of(case).model_copy(
        update={"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    )
    backend = canned(case)
    backend.low = tuple(low - 1e4 for low in backend.low)  # no pixel is inside any mask
    found = GridPrompter(backend, config=config).generate(image_of(case))
    assert found.fallback


def test_wrong_options_and_images_are_named() -> None:
    with pytest.raises(ConfigError, match="preset='nope'.*svp, fma"):
        GridPrompter(Disc(), preset="nope")
    with pytest.raises(ConfigError, match="mode='slow'"):
        GridPrompter(Disc(), mode="slow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=">= 1"):
        GridPrompter(Disc(), points_per_batch=0)
    with pytest.raises(DataError, match=r"\(4, 4\) uint8"):
        GridPrompter(Disc()).generate(np.zeros((4, 4), np.uint8))


def test_crops_equal_the_published_geometry() -> None:
    amg = pytest.importorskip("segment_anything.utils.amg")
    for height, width, layers in [(480, 640, 1), (427, 640, 2), (333, 500, 3), (96, 97, 2)]:
        boxes, layer = amg.generate_crop_boxes((height, width), layers, 512 / 1500)
        ours = crop_boxes(height, width, layers, 512 / 1500)
        assert [list(c.box) for c in ours] == boxes
        assert [c.layer for c in ours] == layer
