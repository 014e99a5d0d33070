"""RLE: equal to pycocotools on good input, refused before its C code on bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from svp.pipeline.errors import DataError
from svp.pipeline.masks import rle
from svp.pipeline.records import Rle

Mask = NDArray[np.bool_]
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(MASKS)
def test_round_trip_and_bytes_of_pycocotools(mask: Mask) -> None:
    made = rle.encode(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert made.counts == theirs["counts"]
    back = rle.decode(made)
    assert back.dtype == np.uint8 and back.shape == mask.shape
    assert np.array_equal(back, mask)
    assert rle.area(made) == int(mask.sum())


@pytest.mark.parametrize("value", [0, 1])
def test_full_and_empty_mask(value: int) -> None:
    mask = np.full((5, 7), value, dtype=np.int64)
    assert np.array_equal(rle.decode(rle.encode(mask)), mask)


@given(st.lists(st.integers(0, 2**26), min_size=1, max_size=60))
def test_string_codec_on_any_runs(runs: list[int]) -> None:
    total = np.array(runs, dtype=np.int64)
    assert rle.from_string(rle.to_string(total)).tolist() == runs


def test_list_and_string_forms_are_the_same_mask() -> None:
    mask = np.zeros((4, 6), dtype=np.bool_)
    mask[1:3, 2:5] = True
    made = rle.encode(mask)
    runs = rle.from_string(made.counts).tolist()
    for counts in (runs, made.counts, made.counts.decode()):
        value = {"size": [4, 6], "counts": counts}
        assert rle.from_segmentation(value, 4, 6, "ann 1") == made


def test_interior_zero_runs_become_canonical() -> None:
    split = {"size": [2, 3], "counts": [1, 1, 0, 2, 2, 0]}
    assert rle.from_segmentation(split, 2, 3, "ann 1") == Rle(
        2, 3, rle.to_string(np.array([1, 3, 2]))
    )


BAD_COUNTS = {
    "short": ([3, 2], "sum to 5"),
    "long": ([3, 9], "0..6"),
    "long in sum": ([3, 4], "sum to 7"),
    "negative": ([-1, 7], "run 0 is -1"),
    "float": ([3.0, 3], "run 0 is 3.0"),
    "bool": ([True, 5], "run 0 is True"),
    "huge int": ([10**30, 6], "run 0"),
    "too many runs": ([1] * 8, "8 runs for 6 pixels"),
    "cut string": ("P", "ends inside a run"),
    "bad character": ("3\x80", "is not RLE"),
    "space": ("3 3", "is not RLE"),
    "endless run": ("P" * 9 + "0", "over 30 bits"),
    "string too long": ("0" * 99, "longer than its 6 pixels"),
    "negative by string": (rle.to_string(np.array([8, -2])), "negative"),
    "none": (None, "neither a list nor a string"),
    "empty": ([], "sum to 0"),
}


@pytest.mark.parametrize("case", BAD_COUNTS)
def test_bad_counts_never_reach_the_decoder(case: str) -> None:
    counts, rule = BAD_COUNTS[case]
    with pytest.raises(DataError, match=f"ann 7.*{rule}"):
        rle.from_segmentation({"size": [2, 3], "counts": counts}, 2, 3, "ann 7")


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        ([3, 2], "differs from the image's 2x3"),
        ([2_000_000, 2_000_000], "1..8192"),
        ([-2, 3], "1..8192"),
        ([0, 3], "1..8192"),
        ([2.0, 3], "1..8192"),
        ([True, 3], "1..8192"),
        ([2], "is not .height, width."),
        ("23", "is not .height, width."),
        (None, "is not .height, width."),
    ],
)
def test_bad_size(size: object, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        rle.from_segmentation({"size": size, "counts": [6]}, 2, 3, "ann 7")


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_string_is_a_mask_or_a_data_error(counts: bytes | str) -> None:
    try:
        made = rle.from_segmentation({"size": [5, 5], "counts": counts}, 5, 5, "fuzz")
    except DataError:
        return
    assert set(np.unique(rle.decode(made))) <= {0, 1}


def test_decode_refuses_a_bad_record() -> None:
    with pytest.raises(DataError, match="sum to"):
        rle.decode(Rle(9, 9, b"52203"))


@pytest.mark.parametrize("bad", [np.full((2, 2), 2), np.zeros((2, 2)), np.zeros(4, bool)])
def test_encode_refuses_what_is_no_mask(bad: NDArray[np.generic]) -> None:
    with pytest.raises(DataError):
        rle.encode(bad)


SQUARES = [[1, 1, 7, 1, 7, 7, 1, 7], [4.0, 4.0, 10.0, 4.0, 10.0, 10.0, 4.0, 10.0]]


def test_overlapping_polygons_are_merged_not_summed() -> None:
    parts = rle.parts(SQUARES, 12, 12, "ann 1")
    merged = rle.from_segmentation(SQUARES, 12, 12, "ann 1")
    summed = sum(rle.decode(part).astype(int) for part in parts)
    assert np.max(summed) == 2  # what published loaders hand to the loss
    assert np.array_equal(rle.decode(merged), np.minimum(summed, 1))
    assert rle.overlap(parts, merged) == int((np.asarray(summed) == 2).sum()) > 0


def test_union_of_rles_and_of_many_polygons_equals_clamped_sum() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 11)) < 0.3 for _ in range(4)]
    value = [{"size": [9, 11], "counts": rle.encode(m).counts.decode()} for m in masks]
    union = rle.from_segmentation(value, 9, 11, "ann 1")
    assert np.array_equal(rle.decode(union), np.any(masks, axis=0))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64, 65, 200])
def test_union_of_many_is_that_of_one_merge_in_short_ones(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One merge of all walks the growing union once for every mask."""
    rng = np.random.default_rng(count)
    masks = [rle.encode(rng.random((9, 31)) < 0.01) for _ in range(count)]
    one = coco.merge([mask.coco() for mask in masks])["counts"]
    merge, sizes = coco.merge, list[int]()

    def counted(rles: list[object]) -> object:
        sizes.append(len(rles))
        return merge(rles)

    monkeypatch.setattr(coco, "merge", counted)
    assert rle.union(masks, 9, 31).counts == one
    assert max(sizes, default=0) <= 8 and len(sizes) <= count


def test_empty_segmentation_and_polygon_outside_are_empty_masks() -> None:
    outside = [[100, 100, 120, 100, 120, 130]]
    for value in ([], outside):
        assert rle.area(rle.from_segmentation(value, 8, 9, "ann 1")) == 0


@pytest.mark.parametrize(
    ("segmentation", "rule"),
    [
        ([[1, 1, 2, 2]], "4 numbers.*a box is no polygon"),
        ([[1, 1, 5, 1, 5, 5], [1, 1, 2, 2]], "polygon 1: 4 numbers"),
        ([[1, 1, 5, 1, 5, 5, 7]], "7 numbers"),
        ([[1, 1, float("nan"), 1, 5, 5]], "finite"),
        ([[1, 1, float("inf"), 1, 5, 5]], "finite"),
        ([[1, 1, True, 1, 5, 5]], "finite"),
        ([[1, 1, "3", 1, 5, 5]], "finite"),
        ([[1, 1, 1e12, 1, 5, 5]], "beyond 65536"),
        ([[1, 1, 10**400, 1, 5, 5]], "beyond 65536"),
        ([[0, 0, 60000, 0] * 100], "outline is longer"),
        ([{"size": [8, 8], "counts": [64]}, [1, 1, 5, 1, 5, 5]], "not a list of numbers"),
        ([1, 1, 5, 1, 5, 5], r"write a list of polygons: \[\[x1"),
        ([[[1, 1], [5, 1], [5, 5]]], r"points in lists of their own; write \[x1, y1"),
        ("polygon", "neither polygons nor an RLE"),
        (None, r"None is neither polygons nor an RLE; write \[\]"),
        ({"size": [8, 8], "counts": "b'@'"}, "Python's b'...' as text: write counts.decode"),
        ({"size": ["8", 8], "counts": [64]}, "height '8' is not an integer"),
    ],
)
def test_bad_polygons_are_refused_with_the_annotation(segmentation: object, rule: str) -> None:
    with pytest.raises(DataError, match=f"ann 12.*{rule}"):
        rle.from_segmentation(segmentation, 8, 8, "ann 12")


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8, float, int])
@pytest.mark.parametrize("box", [list, tuple, np.array])
def test_numpy_numbers_are_numbers(kind: type, box: type) -> None:
    plain = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
    mask = rle.from_segmentation([box([kind(n) for n in plain])], 10, 12, "ann 12")
    assert mask == rle.from_segmentation([plain], 10, 12, "ann 12") and rle.area(mask) == 36
    runs = {"size": [np.int64(10), np.int32(12)], "counts": np.array([100, 20])}
    assert rle.area(rle.from_segmentation(runs, 10, 12, "ann 12")) == 20


def test_numpy_numbers_keep_the_rules() -> None:
    for bad in (np.float64("nan"), np.float32("inf"), np.bool_(True), np.complex64(1)):
        with pytest.raises(DataError, match="finite number"):
            rle.from_segmentation([[bad, 2.0, 8.0, 2.0, 8.0, 8.0]], 10, 12, "ann 12")
