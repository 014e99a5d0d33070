"""Outlines: exact before simplification, near after it, and what the overlay reports."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from svp.pipeline.browse.overlay import SIDE, draw, thumbnail
from svp.pipeline.browse.svg_outline import TOLERANCE, _data, simplify, svg_path, trace
from svp.pipeline.masks import rle
from svp.pipeline.records import Superpixels

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def even_odd(loops: list[NDArray[np.int64]], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centre has an odd number of vertical edges to its right."""
    inside = np.zeros((height, width), int)
    for loop in loops:
        for (x1, y1), (x2, y2) in zip(loop, np.roll(loop, -1, 0), strict=True):
            assert x1 == x2 or y1 == y2  # along pixel edges
            if x1 == x2:
                inside[min(y1, y2) : max(y1, y2), :x1] += 1
    odd: NDArray[np.bool_] = inside % 2 == 1
    return odd


@given(MASKS)
def test_the_trace_holds_exactly_the_mask(mask: NDArray[np.bool_]) -> None:
    assert (even_odd(list(trace(mask)), *mask.shape) == mask).all()


def test_a_rectangle_with_a_hole_is_two_loops_of_four_corners() -> None:
    mask = np.zeros((9, 12), bool)
    mask[1:8, 2:10] = True
    mask[3:5, 4:7] = False
    assert svg_path(mask, 10) == "M20 10l80 0 0 70 -80 0zM40 30l30 0 0 20 -30 0z"
    assert svg_path(mask, 10, min_area=10) == "M20 10l80 0 0 70 -80 0z"
    assert svg_path(np.zeros((3, 3), bool)) == ""


@given(st.integers(0, 2**32 - 1))
def test_simplified_outlines_stay_within_the_tolerance(seed: int) -> None:
    random = np.random.default_rng(seed)
    picture = Image.new("1", (60, 50))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in random.integers(0, 50, (5, 2))], fill=1)
    for loop in trace(np.asarray(picture)):
        kept = simplify(loop)
        assert len(kept) <= len(loop)
        ends = np.roll(kept, -1, 0)
        for point in loop:  # distance of each original corner to the nearest kept side
            side, to = ends - kept, point - kept
            length = np.maximum((side**2).sum(1), 1)
            along = np.clip((side * to).sum(1) / length, 0, 1)[:, None]
            assert np.hypot(*(to - along * side).T).min() <= TOLERANCE + 1e-9


def test_a_fragmented_mask_is_drawn_coarser_and_in_its_place() -> None:
    """Noise in the lower right quarter: its outline stays there and stays short."""
    mask = np.zeros((2000, 2001), np.bool_)
    mask[1000:, 1000:] = np.random.default_rng(0).random((1000, 1001)) < 0.5
    path = svg_path(mask, 0.5)
    numbers = [int(number) for number in re.findall(r"\d+", path)]
    assert 1000 < len(path) < 1_000_000
    assert svg_path(mask[:200, :200]) == ""
    assert max(numbers) <= 1000 + 16  # at half the size; a block may reach over the edge
    small = mask[1000:1150, 1000:1150]
    exact = "".join(_data(simplify(loop), 1.0) for loop in trace(small))
    assert svg_path(small) == exact, "what has few edges is drawn as it is"


def test_a_diagonal_becomes_a_line() -> None:
    mask = np.tri(40, dtype=bool)
    assert len(simplify(next(iter(trace(mask))))) <= 6


@pytest.mark.parametrize("shape", [(40, 60), (1500, 1000), (1, 7), (3, 2000)])
def test_view_box_and_shares(shape: tuple[int, int]) -> None:
    left, top = np.zeros(shape, bool), np.zeros(shape, bool)
    left[:, : -(-shape[1] // 2)] = True
    top[: -(-shape[0] // 4), :] = True
    overlay = draw(_superpixels([left, top]))
    assert max(overlay.box) == SIDE
    assert overlay.box[0] / SIDE == pytest.approx(shape[1] / max(shape), abs=1e-3)
    assert overlay.uncovered_share == pytest.approx((~(left | top)).mean())
    assert overlay.overlap_share == pytest.approx((left & top).mean())
    for item, mask in zip(overlay.shapes, (left, top), strict=True):
        assert item.share == pytest.approx(mask.mean())
        numbers = [int(n) for n in re.findall(r"-?\d+", item.path)]
        assert max(map(abs, numbers)) <= SIDE + 1 and len(numbers) == 8


def test_thumbnails_keep_small_pictures_and_bound_large_ones() -> None:
    assert thumbnail(np.zeros((30, 20, 3), np.uint8))[1] == (20, 30)
    data, size = thumbnail(np.zeros((900, 1800, 3), np.uint8))
    assert size == (640, 320) and data[8:12] == b"WEBP"


def _superpixels(masks: list[NDArray[np.bool_]]) -> Superpixels:
    n, (height, width) = len(masks), masks[0].shape
    return Superpixels(
        height=height,
        width=width,
        rles=tuple(rle.encode(mask).counts for mask in masks),
        level=np.full(n, 2, np.uint8),
        predicted_iou=np.ones(n, np.float32),
        stability=np.ones(n, np.float32),
        area=np.array([mask.sum() for mask in masks], np.int32),
        box=np.zeros((n, 4), np.int32),
        point=np.zeros((n, 2), np.float32),
        crop=np.zeros((n, 4), np.int32),
    )
