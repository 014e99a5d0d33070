"""Masks as runs, against dense masks, pycocotools and OpenCV."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from support.dense import to_masks
from svp.pipeline.masks import runs as rl

Masks = NDArray[np.bool_]


@st.composite
def mask_sets(draw: st.DrawFn) -> Masks:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    count = draw(st.integers(0, 4))
    return draw(hnp.arrays(np.bool_, (count, height, width)))


def check(runs: rl.Runs) -> None:
    """The invariant of `Runs`."""
    assert (runs.start < runs.end).all()
    assert (np.diff(runs.mask) >= 0).all()
    same = runs.mask[1:] == runs.mask[:-1]
    assert (runs.start[1:] > runs.end[:-1])[same].all()


@given(mask_sets())
def test_round_trip_areas_and_complement(masks: Masks) -> None:
    runs = rl.from_masks(masks)
    check(runs)
    np.testing.assert_array_equal(to_masks(runs), masks)
    np.testing.assert_array_equal(rl.areas(runs), masks.sum((1, 2)))
    inverse = rl.complement(runs)
    check(inverse)
    np.testing.assert_array_equal(to_masks(inverse), ~masks)


@given(mask_sets())
def test_boxes_have_inclusive_maxima(masks: Masks) -> None:
    expected = np.zeros((len(masks), 4), np.int64)
    for row, mask in zip(expected, masks, strict=True):
        if mask.any():
            ys, xs = np.nonzero(mask)
            row[:] = xs.min(), ys.min(), xs.max(), ys.max()
    np.testing.assert_array_equal(rl.boxes(rl.from_masks(masks)), expected)


@given(mask_sets())
def test_encode_gives_the_bytes_of_pycocotools(masks: Masks) -> None:
    expected = tuple(coco.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks)
    assert rl.encode(rl.from_masks(masks)) == expected


@given(mask_sets())
def test_pieces_cut_at_column_ends_and_join_again(masks: Masks) -> None:
    runs = rl.from_masks(masks)
    parts = rl.pieces(runs)
    assert (parts.bottom <= runs.height).all() and (parts.top < parts.bottom).all()
    joined = rl.join(parts, *masks.shape)
    check(joined)
    np.testing.assert_array_equal(to_masks(joined), masks)


@given(mask_sets(), st.data())
def test_select_and_concat(masks: Masks, data: st.DataObject) -> None:
    count = len(masks)
    indices = data.draw(st.lists(st.integers(0, count - 1), max_size=6)) if count else []
    order = np.array(indices, np.int64)
    runs = rl.from_masks(masks)
    chosen = rl.select(runs, order)
    check(chosen)
    np.testing.assert_array_equal(to_masks(chosen), masks[order])
    both = rl.concat([runs, chosen])
    np.testing.assert_array_equal(to_masks(both), np.concatenate((masks, masks[order])))


@given(mask_sets(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_moved_pieces_pad_to_the_image(
    masks: Masks, left: int, right: int, top: int, bottom: int
) -> None:
    padded = np.pad(masks, ((0, 0), (top, bottom), (left, right)))
    height, width = padded.shape[1:]
    parts = rl.moved(rl.pieces(rl.from_masks(masks)), x=left, y=top)
    both = rl.concat_pieces([parts, rl.moved(parts, mask=len(masks)), rl.no_pieces()])
    joined = rl.join(both, 2 * len(masks), height, width)
    check(joined)
    np.testing.assert_array_equal(to_masks(joined), np.concatenate((padded, padded)))


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 3)))
@settings(max_examples=50)
def test_labels_become_one_mask_each(labels: NDArray[np.int64]) -> None:
    runs = rl.from_labels(labels)
    check(runs)
    expected = np.stack([labels == name for name in np.unique(labels)])
    np.testing.assert_array_equal(to_masks(runs), expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 1, 1), (1, 1, 7), (1, 7, 1)])
def test_degenerate_sizes(shape: tuple[int, int, int]) -> None:
    full = np.ones(shape, np.bool_)
    runs = rl.from_masks(full)
    assert len(runs) == shape[0]
    np.testing.assert_array_equal(to_masks(runs), full)
    np.testing.assert_array_equal(to_masks(rl.complement(runs)), ~full)
