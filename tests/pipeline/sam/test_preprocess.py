"""The resize and normalisation equal segment-anything's, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from svp.pipeline.sam.preprocess import resize_longest, target_size, to_input

SIZES = [(480, 640), (427, 640), (640, 480), (64, 64), (37, 211), (500, 333)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("longest", [128, 1024])
def test_resize_equals_segment_anything(size: tuple[int, int], longest: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = ResizeLongestSide(longest).apply_image(image)
    assert np.array_equal(resize_longest(image, longest).numpy(), expected)


@given(st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([128, 256, 1024]))
def test_target_size_equals_segment_anything(height: int, width: int, longest: int) -> None:
    published = ResizeLongestSide.get_preprocess_shape(height, width, longest)
    ours = target_size(height, width, longest)
    assert ours == tuple(max(1, side) for side in published)
    assert max(ours) == longest


def test_input_equals_sam_preprocess(small_sam: Sam) -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    resized = resize_longest(image, 256).permute(2, 0, 1)[None]
    got = to_input([image], 256, small_sam.pixel_mean, small_sam.pixel_std)
    assert torch.equal(got, small_sam.preprocess(resized))
    assert got.dtype == torch.float32
    assert not got[:, :, 144:].any()  # padding is zero after normalisation


@settings(max_examples=10)
@given(st.integers(500, 4000))
def test_one_pixel_wide_images_keep_a_column(height: int) -> None:
    image = np.full((height, 1, 3), 200, dtype=np.uint8)
    assert resize_longest(image, 128).shape == (128, 1, 3)
