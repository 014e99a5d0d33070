"""The level filter: published cases and the properties that wrong variants lack. No torch here."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from support.dense import to_masks
from svp.pipeline.errors import DataError
from svp.pipeline.masks import runs as rl
from svp.pipeline.recipe import GridConfig
from svp.pipeline.records import Rle
from svp.pipeline.superpixels import selection
from svp.pipeline.superpixels.candidates import Candidates
from svp.pipeline.superpixels.fma import keep_superpixels

CASES = sorted((Path(__file__).parents[2] / "fixtures" / "fma").glob("cand_*.npz"))


def unpack(packed: NDArray[np.uint8], height: int, width: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(packed, axis=1, count=height * width)
    return bits.reshape(len(packed), height, width).astype(np.bool_)


def rles(masks: NDArray[np.bool_]) -> list[Rle]:
    return [Rle(*masks.shape[1:], counts) for counts in rl.encode(rl.from_masks(masks))]


def test_all_seven_cases_are_here() -> None:
    assert len(CASES) == 7


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_filter_alone_equals_the_published_code(path: Path) -> None:
    with np.load(path, allow_pickle=False) as case:
        masks = unpack(case["in_masks"], *case["in_hw"].tolist())
        kept = keep_superpixels(rles(masks), case["in_level"], float(case["cfg_rsw_thresh"]))
        assert kept == case["ref_rsw_keep"].tolist()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_clean_up_then_filter_equals_the_published_code(path: Path) -> None:
    with np.load(path, allow_pickle=False) as stored:
        case = dict(stored)
    height, width = case["in_hw"].tolist()
    runs = rl.from_masks(unpack(case["in_masks"], height, width))
    nms_thresh = float(case["cfg_nms_thresh"])
    config = GridConfig(
        min_mask_region_area=int(case["cfg_min_area"]),
        box_nms_thresh=nms_thresh,
        crop_nms_thresh=nms_thresh,
        rock_sand_water_thresh=float(case["cfg_rsw_thresh"]),
    )
    count = len(runs)
    found = Candidates(
        runs=runs,
        level=case["in_level"],
        iou=case["in_predicted_iou"],
        stability=np.arange(count, dtype=np.float32),  # the input index, to see the order
        point=case["in_point_coords"],
        crop=case["in_crop_box_xyxy"].astype(np.int64),
        box=rl.boxes(runs),
    )
    found = selection.cleaned(found, config)
    assert found.stability.astype(int).tolist() == case["ref_post_clean_keep"].tolist()
    found, counts = selection.filtered(found, config)
    assert found.stability.astype(int).tolist() == case["ref_post_keep"].tolist()
    expected = unpack(case["ref_post_masks"], height, width)
    np.testing.assert_array_equal(to_masks(found.runs), expected)
    np.testing.assert_array_equal(found.box, case["ref_post_boxes_xyxy"])
    assert counts == rl.encode(rl.from_masks(expected))


def naive(masks: NDArray[np.bool_], levels: NDArray[np.uint8], threshold: float) -> list[int]:
    """The definition, mask by mask, with exact integers (thresholds in tenths)."""
    kept: list[int] = []
    tenths = round(threshold * 10)
    for level in (2, 1, 0):
        frozen = list(kept)
        for i in np.flatnonzero(levels == level).tolist():
            area = int(masks[i].sum())
            shared = [int((masks[i] & masks[k]).sum()) for k in frozen]
            if not frozen or (area and all(10 * s < tenths * area for s in shared)):
                kept.append(i)
    return kept


@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(0, 8), st.just(4), st.just(5))),
    st.data(),
    st.sampled_from([0.1, 0.3, 0.5]),
)
def test_equals_the_definition(
    masks: NDArray[np.bool_], data: st.DataObject, threshold: float
) -> None:
    levels = data.draw(hnp.arrays(np.uint8, len(masks), elements=st.integers(0, 2)))
    kept = keep_superpixels(rles(masks), levels, threshold)
    assert kept == naive(masks, levels, threshold)
    assert sorted(levels[kept].tolist(), reverse=True) == levels[kept].tolist()


def bars(*spans: tuple[int, int]) -> NDArray[np.bool_]:
    masks = np.zeros((len(spans), 1, 100), np.bool_)
    for mask, (first, last) in zip(masks, spans, strict=True):
        mask[0, first:last] = True
    return masks


def test_the_maximum_counts_not_the_union() -> None:
    masks = bars((0, 29), (71, 100), (0, 100))  # 29 % in each of two wholes
    assert keep_superpixels(rles(masks), [2, 2, 1]) == [0, 1, 2]


def test_exactly_the_threshold_is_dropped() -> None:
    masks = bars((0, 30), (0, 100), (1, 101))  # 30 of 100 pixels, 29 of 99 pixels
    assert keep_superpixels(rles(masks), [2, 1, 1]) == [0, 2]


def test_masks_of_one_level_do_not_compete() -> None:
    masks = bars((0, 5), (50, 60), (50, 60), (50, 60))
    assert keep_superpixels(rles(masks), [2, 1, 1, 0]) == [0, 1, 2]


def test_masks_without_pixels() -> None:
    masks = bars((0, 5), (0, 0), (0, 0))
    assert keep_superpixels(rles(masks), [2, 1, 0]) == [0]
    assert keep_superpixels(rles(masks), [0, 1, 0]) == [1, 0]  # 1 is the first level that has any


def test_nothing_in_nothing_out_and_wrong_input_is_named() -> None:
    assert keep_superpixels([], []) == []
    masks = rles(bars((0, 5)))
    with pytest.raises(DataError, match="1 mask needs as many levels"):
        keep_superpixels(masks, [2, 2])
    with pytest.raises(DataError, match="got 3 to 3"):
        keep_superpixels(masks, [3])
    with pytest.raises(DataError, match="one size"):
        keep_superpixels([*masks, Rle(2, 2, b"4")], [2, 2])
