"""Sine positions: DETR's numbers, and the split into axes that SSPE's shortcut stands on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from svp.model.projectors.svp.position import sine_axes, sine_position
from svp.pipeline.errors import ConfigError


def test_equals_detr(parity: Callable[[str], Any]) -> None:
    want = parity("pe_sine_norm_20x31_d128").output["out"]  # (128,20,31)
    got = sine_position((20, 31), 128).T.reshape(128, 20, 31)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_is_the_sum_of_its_axes() -> None:
    y, x = sine_axes((3, 5), 8)
    both = sine_position((3, 5), 8).view(3, 5, 8)
    assert torch.equal(both[1, 4], y[1] + x[4])
    assert not y[:, 4:].any() and not x[:, :4].any()


def test_width_must_hold_pairs_of_both_axes() -> None:
    with pytest.raises(ConfigError, match="got 6"):
        sine_position((2, 2), 6)
