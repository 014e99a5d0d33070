"""One geometry for images and masks; coverage exact to the last bit."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks import rle
from svp.pipeline.masks.encoder_view import KINDS, Kind, View
from svp.pipeline.records import Rle

sides = st.integers(1, 40)
kinds = st.sampled_from(KINDS)
views = st.builds(View, kinds, st.integers(1, 48))
grids = st.tuples(st.integers(1, 30), st.integers(1, 30))


def labels(height: int, width: int, seed: int, count: int = 5) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (height, width))


def partition(label_map: NDArray[np.int64], count: int = 5) -> list[Rle]:
    return [rle.encode(label_map == i) for i in range(count)]


def slow_cover(mask: NDArray[np.bool_], view: View, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Coverage by rational arithmetic, from the definition, one pixel and cell at a time."""
    height, width = mask.shape
    longest, shortest = max(mask.shape), min(mask.shape)
    out = np.zeros(grid)

    def spans(pixels: int, cells: int) -> list[list[Fraction]]:
        start, length, offset, extent = Fraction(0), Fraction(pixels), 0, view.size
        if view.kind == "center_crop":
            start, length = Fraction(pixels - shortest, 2), Fraction(shortest)
        if view.kind == "clip":  # the shorter side to the view's, whole pixels, the middle of it
            extent = int(view.size * pixels / shortest)
            offset = -((extent - view.size) // 2)
        if view.kind == "pad":
            extent = max(1, int(Fraction(pixels * view.size, longest) + Fraction(1, 2)))
            offset = (view.size - extent) // 2
        cell = Fraction(view.size, cells)
        rows = []
        for j in range(cells):
            row = []
            for i in range(pixels):
                low, high = (offset + (at - start) * extent / length for at in (i, i + 1))
                inside = min(high, (j + 1) * cell) - max(low, j * cell)
                row.append(max(inside, Fraction(0)) / cell)
            rows.append(row)
        return rows

    ry, rx = spans(height, grid[0]), spans(width, grid[1])
    for j in range(grid[0]):
        for i in range(grid[1]):
            out[j, i] = float(
                sum(ry[j][y] * rx[i][x] for y, x in zip(*np.nonzero(mask), strict=True))
            )
    return out


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
    kinds,
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_coverage_is_the_exact_area(
    height: int, width: int, seed: int, kind: Kind, size: int, gh: int, gw: int
) -> None:
    mask = labels(height, width, seed, 2) == 1
    view = View(kind, size)
    got = view.resize_masks([rle.encode(mask)], (gh, gw))[0]
    np.testing.assert_array_equal(got, slow_cover(mask, view, (gh, gw)))  # rounded once, equal bits


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(0, 999), views, grids)
def test_a_partition_stays_a_partition(
    height: int, width: int, seed: int, view: View, grid: tuple[int, int]
) -> None:
    whole = view.resize_masks([rle.encode(np.ones((height, width), bool))], grid)[0]
    total = view.resize_masks(partition(labels(height, width, seed)), grid).sum(axis=0)
    np.testing.assert_allclose(total, whole, atol=1e-14)
    if view.kind != "pad":
        np.testing.assert_array_equal(whole, 1.0)


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.integers(0, 999), views, grids)
def test_runs_and_matrices_agree(
    height: int, width: int, seed: int, view: View, grid: tuple[int, int]
) -> None:
    label_map = labels(height, width, seed)
    ry, rx = view.matrices(height, width, grid)
    dense = np.stack([ry @ (label_map == i) @ rx.T for i in range(5)])
    np.testing.assert_allclose(
        view.resize_masks(partition(label_map), grid), dense, rtol=1e-12, atol=1e-13
    )


def test_equals_adaptive_pooling_where_sizes_divide() -> None:
    label_map = labels(48, 96, 3)
    masks = torch.stack([torch.from_numpy(label_map == i) for i in range(5)]).double()
    for grid in ((24, 24), (8, 4), (48, 96), (1, 1)):
        got = View("squash", 336).resize_masks(partition(label_map), grid)
        np.testing.assert_allclose(got, F.adaptive_avg_pool2d(masks, grid).numpy(), atol=1e-15)
        area = F.interpolate(masks[None], size=grid, mode="area")[0].numpy()
        np.testing.assert_allclose(got, area, atol=1e-15)


def test_method_spec_example() -> None:
    mask = np.zeros((336, 336), bool)
    mask[7:13, 15:21] = True  # 6 x 6 pixels inside one 14 x 14 patch
    got = View("squash", 336).resize_masks([rle.encode(mask)], (24, 24))[0]
    assert got[0, 1] == 36 / 196 and got.sum() == pytest.approx(0.1837, abs=1e-4)


def test_same_bytes_alone_and_in_company() -> None:
    masks = partition(labels(61, 83, 1))
    view, grid = View("squash", 96), (7, 11)
    together = view.cover(masks, grid)
    alone = np.concatenate([view.cover([mask], grid) for mask in masks])
    assert together.dtype == np.float32 and together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(120, 160), (161, 120), (96, 96), (40, 31), (97, 300)])
def test_image_and_mask_go_the_same_way(kind: Kind, shape: tuple[int, int]) -> None:
    height, width = shape
    top, left = height // 4, width // 3
    mask = np.zeros(shape, bool)
    mask[top : top + height // 3, left : left + width // 4] = True
    view = View(kind, 96)
    image = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    seen = view.image(image)[:, :, 0].astype(float) / 255
    cover = view.resize_masks([rle.encode(mask)], (96, 96))[0]
    y, x = view.axes(height, width)
    inside = np.zeros((96, 96), bool)
    rows, columns = (slice(max(0, a.offset), max(0, a.offset) + a.extent) for a in (y, x))
    inside[rows, columns] = True
    around = np.lib.stride_tricks.sliding_window_view(np.pad(cover, 1, "edge"), (3, 3))
    same = (around == cover[:, :, None, None]).all(axis=(2, 3))
    sure = inside & same  # bicubic blurs the edge itself
    assert sure.mean() > 0.2 and (cover[sure] == 1).any() and (cover[sure] == 0).any()
    np.testing.assert_array_equal(seen[sure] > 0.5, cover[sure] == 1)
    for axis in (0, 1):  # the centre of mass agrees to a tenth of a view pixel
        place = np.arange(96).reshape(-1, 1) if axis == 0 else np.arange(96)
        shown = (seen * inside * place).sum() / (seen * inside).sum()
        assert shown == pytest.approx((cover * place).sum() / cover.sum(), abs=0.1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8192), st.integers(1, 8192), views, st.floats(0, 1), st.floats(0, 1))
def test_points_round_trip(height: int, width: int, view: View, u: float, v: float) -> None:
    xy = np.array([[u * width, v * height]])
    there = view.points(xy, height, width)
    y, x = view.axes(height, width)
    back = [
        axis.start + (v - axis.offset) * (axis.stop - axis.start) / axis.extent
        for axis, v in zip((x, y), there[0], strict=True)
    ]
    np.testing.assert_allclose(back, xy[0], atol=1e-8)
    if view.kind not in ("center_crop", "clip"):
        assert (there >= -1e-9).all() and (there <= view.size + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_lands_in_the_cell_that_its_pixel_fills(kind: Kind) -> None:
    view, (height, width) = View(kind, 84), (50, 37)
    for y, x in ((20, 18), (7, 1), (49, 36), (25, 30)):
        mask = np.zeros((height, width), bool)
        mask[y, x] = True
        cover = view.resize_masks([rle.encode(mask)], (84, 84))[0]
        at = view.points(np.array([x + 0.5, y + 0.5]), height, width)
        if not cover.any():  # cropped away
            assert ((at < 0) | (at > 84)).any()
            continue
        j, i = np.unravel_index(cover.argmax(), cover.shape)
        assert abs(i + 0.5 - at[0]) <= 2 and abs(j + 0.5 - at[1]) <= 2


def test_image_of_the_views_own_size_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    for kind in KINDS:
        np.testing.assert_array_equal(View(kind, 56).image(image), image)


def test_squash_is_pil_bicubic() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    want = np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(View("squash", 28).image(image), want)


def test_padding_is_plain_and_uncovered() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    view = View("pad", 40)
    assert (view.image(image)[:10] == (124, 116, 104)).all()
    cover = view.cover([rle.encode(np.ones((20, 40), bool))], (4, 4))[0]
    np.testing.assert_array_equal(cover, [[0] * 4, [1] * 4, [1] * 4, [0] * 4])


def test_thin_images_keep_a_pixel() -> None:
    image = np.full((1, 8192, 3), 7, np.uint8)
    for kind in KINDS:
        assert View(kind, 28).image(image).shape == (28, 28, 3)
    one = rle.encode(np.ones((1, 8192), bool))
    assert View("pad", 28).resize_masks([one], (28, 28)).sum() == 28.0


def test_largest_sizes_stay_exact() -> None:
    height, width = 8192, 8191
    runs = np.array([0, height * (width - 1), height - 1, 1])  # all but the last column, then 1
    mask = Rle(height, width, rle.to_string(runs))
    got = View("squash", 1024).resize_masks([mask], (1, 1))[0, 0, 0]
    assert got == float(Fraction(height * (width - 1) + 1, height * width))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigError, match="view=stretch: allowed are squash"):
        View("stretch", 8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size=0"):
        View("squash", 0)
    with pytest.raises(DataError, match="float32"):
        View("squash", 8).image(np.zeros((4, 4, 3), np.float32))
    masks = [rle.encode(np.ones((4, 4), bool)), rle.encode(np.ones((4, 5), bool))]
    with pytest.raises(DataError, match="4x5 and 4x4"):
        View("squash", 8).cover(masks, (2, 2))
    with pytest.raises(DataError, match="sum to"):
        View("squash", 8).cover([Rle(4, 4, rle.to_string(np.array([3, 4])))], (2, 2))
    assert View("squash", 8).cover([], (2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("height", "width"),
    [(480, 640), (640, 427), (333, 500), (500, 375), (336, 336), (100, 80), (37, 301), (9, 128)],
)
@pytest.mark.parametrize("size", [224, 336])
def test_clip_is_the_preprocessing_of_clip_bit_for_bit(height: int, width: int, size: int) -> None:
    """View, mean and spread together give the very floats of transformers' processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from svp.pipeline.fetch.encoder_specs import CLIP_MEAN, CLIP_STD

    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    crop = {"height": size, "width": size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=crop)
    want = processor(image, return_tensors="np")["pixel_values"][0]
    seen = View("clip", size).image(image)
    assert seen.shape == (size, size, 3) and seen.dtype == np.uint8
    mean, std = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
    got = ((seen.astype(np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_array_equal(got, want)


def test_clip_of_a_line_costs_no_more_than_what_is_seen() -> None:
    line = np.zeros((1, 8192, 3), np.uint8)
    line[:, 4095:4097] = 200
    seen = View("clip", 336).image(line)
    assert seen.shape == (336, 336, 3) and seen[:, 168].min() > 0
