"""Sizes and pixels of the masks that SSPE sees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.model.projectors.svp.mask_batches import (
    check_budget,
    require_stored,
    shrink,
    split_by_size,
    within,
)
from svp.pipeline.errors import ConfigError


def test_the_caches_grid_passes_untouched() -> None:
    masks = (torch.rand(5, 64, 64) > 0.5).to(torch.uint8)
    [(rows, small)] = split_by_size(masks, [5], mode="per_mask", budget=4096)
    assert small is masks and rows.tolist() == [0, 1, 2, 3, 4]


def test_per_image_shares_the_budget_among_an_images_superpixels() -> None:
    masks = torch.ones(7, 64, 64, dtype=torch.uint8)
    groups = split_by_size(masks, [4, 1, 2], mode="per_image", budget=4096)
    sizes = {tuple(small.shape[1:]): rows.tolist() for rows, small in groups}
    assert sizes == {(32, 32): [0, 1, 2, 3], (64, 64): [4], (45, 45): [5, 6]}


@settings(max_examples=50, deadline=None)
@given(h=st.integers(1, 200), w=st.integers(1, 200), budget=st.integers(1, 5000))
def test_size_keeps_the_budget_and_never_grows(h: int, w: int, budget: int) -> None:
    small_h, small_w = within(h, w, budget)
    assert 1 <= small_h <= h and 1 <= small_w <= w
    assert small_h * small_w <= max(1.0, budget) * 2.3 + 200  # "about": two roundings


def test_half_of_a_cell_is_inside_and_nothing_gets_lost() -> None:
    masks = torch.zeros(4, 4, 4, dtype=torch.uint8)
    masks[0, :2, 0] = 1  # half of the first cell
    masks[1, 2, 3] = 1  # a quarter of a cell: below one half, but all there is
    masks[2] = 1
    small = shrink(masks, (2, 2)).tolist()
    assert small == [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="mask_budget_mode 'per_batch'"):
        check_budget("per_batch", None)
    with pytest.raises(ConfigError, match="mask_budget=0"):
        check_budget("per_mask", 0)
    assert check_budget("per_image", None) == 163_840


def test_a_cache_too_coarse_for_a_shared_budget_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"sspe\.budget=16384.*mask_budget=40960"):
        require_stored("per_image", None, 4096)
    require_stored("per_image", None, 16_384)
    require_stored("per_image", 40_960, 4096)
    require_stored("per_mask", None, 4096)
