"""Model-ready arrays: what may never be lost is a superpixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svp.pipeline.masks import rle
from svp.pipeline.masks.encoder_view import (
    KINDS,
    LEAST_COVER,
    View,
    binarise,
    derive,
    half_cover,
    sspe_grid,
)
from svp.pipeline.records import Superpixels


def superpixels(*masks: NDArray[np.bool_]) -> Superpixels:
    count = len(masks)
    return Superpixels(
        height=masks[0].shape[0],
        width=masks[0].shape[1],
        rles=tuple(rle.encode(mask).counts for mask in masks),
        level=np.zeros(count, np.uint8),
        predicted_iou=np.ones(count, np.float32),
        stability=np.ones(count, np.float32),
        area=np.array([mask.sum() for mask in masks], np.int32),
        box=np.zeros((count, 4), np.int32),
        point=np.zeros((count, 2), np.float32),
        crop=np.zeros((count, 4), np.int32),
    )


def dot(height: int, width: int, y: int, x: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[y, x] = True
    return mask


@pytest.mark.parametrize(
    ("size", "budget", "side"),
    [(336, 4096, 64), (336, 1024, 32), (128, 4096, 64), (56, 4096, 56), (64, 4096, 64),
     (1024, 16, 4), (50, 2000, 45)],
)  # fmt: skip
def test_sspe_grid(size: int, budget: int, side: int) -> None:
    assert sspe_grid(View("squash", size), budget) == (side, side)


def test_shapes_types_and_bit_order() -> None:
    left = np.zeros((16, 16), bool)
    left[:, :4] = True
    cover, bits = derive(superpixels(left, ~left), View("squash", 16), (2, 2), 64)
    assert cover.dtype == np.float16 and bits.dtype == np.uint8
    np.testing.assert_array_equal(cover, [[0.5, 0, 0.5, 0], [0.5, 1, 0.5, 1]])
    np.testing.assert_array_equal(bits, [[0b11000000] * 8, [0b00111111] * 8])  # 8 x 8 cells


def test_bits_are_padded_to_a_byte() -> None:
    _, bits = derive(superpixels(np.ones((9, 9), bool)), View("squash", 9), (3, 3), 81)
    assert bits.shape == (1, 11) and bits[0, -1] == 0b10000000


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**30), st.sampled_from([14, 56, 128])
)
def test_no_superpixel_is_lost_under_squash(height: int, width: int, at: int, size: int) -> None:
    mask = dot(height, width, at % height, at // height % width)
    cover, bits = derive(superpixels(mask), View("squash", size), (size // 14, size // 14), 256)
    assert cover.sum() > 0 and np.unpackbits(bits).sum() >= 1


def test_tiny_superpixel_sets_its_best_cell_only() -> None:
    _, bits = derive(superpixels(dot(640, 640, 105, 212)), View("squash", 336), (24, 24), 4096)
    assert np.flatnonzero(np.unpackbits(bits)).tolist() == [10 * 64 + 21]


def test_half_covered_cell_is_set() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = mask[2, 2] = True  # two of four pixels; one of four
    _, bits = derive(superpixels(mask), View("squash", 4), (1, 1), 4)
    assert bits.tolist() == [[0b10000000]]


def test_one_pixel_row_is_its_exact_share() -> None:
    cover, _ = derive(superpixels(dot(640, 640, 0, 0)), View("squash", 336), (24, 24), 4096)
    assert cover[0, 0] == np.float16((24 / 640) ** 2) and cover[0, 1:].max() == 0


@pytest.mark.parametrize("grid", [(24, 24), (4, 4), (1, 1)])
def test_one_pixel_of_the_largest_image_survives_float16(grid: tuple[int, int]) -> None:
    side = 8192
    runs = np.array([side * 4000 + 4001, 1, side * side - side * 4000 - 4002])
    one = superpixels(dot(1, 1, 0, 0))
    big = Superpixels(
        height=side,
        width=side,
        rles=(rle.to_string(runs),),
        **{
            name: getattr(one, name)
            for name in ("level", "predicted_iou", "stability", "area", "box", "point", "crop")
        },
    )
    cover, bits = derive(big, View("squash", 336), grid, 4096)
    assert cover.astype(np.float64).sum() >= 1e-6  # Eq. 2's clamp stays out of play
    assert np.unpackbits(bits).sum() == 1


def test_half_cover_raises_faint_rows_only() -> None:
    exact = np.array([[0, 1e-9, 3e-9], [0, 0, 0], [0.25, 1e-9, 0], [4e-7, 4e-7, 0]])
    half = half_cover(exact)
    assert half[0].tolist() == [0, 0, LEAST_COVER]
    assert not half[1].any()
    assert half[2].tolist() == [0.25, 0, 0]
    assert half[3, 0] == LEAST_COVER and half[3, 1] == np.float16(4e-7)
    assert float(np.float16(LEAST_COVER)) == LEAST_COVER > 1e-6 > float(np.nextafter(
        np.float16(LEAST_COVER), np.float16(0)))  # fmt: skip


def test_binarise_takes_the_first_of_equal_cells() -> None:
    bits = binarise(np.array([[0.1, 0.3, 0.3], [0.5, 0.49, 1.0], [0.0, 0.0, 0.0]]))
    assert bits.tolist() == [[False, True, False], [True, False, True], [False, False, False]]


def test_outside_a_centre_crop_rows_are_zero() -> None:
    cover, bits = derive(superpixels(dot(20, 60, 3, 2)), View("center_crop", 28), (2, 2), 64)
    assert not cover.any() and not bits.any()


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_the_neighbours(kind: str) -> None:
    rng = np.random.default_rng(2)
    label_map = rng.integers(0, 6, (33, 47))
    masks = [label_map == i for i in range(6)]
    view = View(kind, 56)  # type: ignore[arg-type]
    cover, bits = derive(superpixels(*masks), view, (4, 4), 400)
    for i, mask in enumerate(masks):
        one_cover, one_bits = derive(superpixels(mask), view, (4, 4), 400)
        assert one_cover.tobytes() == cover[i].tobytes()
        assert one_bits.tobytes() == bits[i].tobytes()


def test_an_empty_mask_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="no pixel"):
        derive(superpixels(np.zeros((4, 4), bool)), View("squash", 14), (1, 1), 16)
