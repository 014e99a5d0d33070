"""Means of superpixels, and features as four bits beside them: definition, bounds, outliers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svp.model.projectors.svp.ssa import pool
from svp.pipeline.cache.int4 import decode, encode, predicted, superpixel_means

Half = NDArray[np.float16]


def scene(
    seed: int, n: int = 12, patches: int = 60, channels: int = 130, outliers: int = 0
) -> tuple[Half, Half]:
    """Cover by n parts, a few wholes of two parts and one out of view; three patches are under none.

    Features (P,C) differ less within a part than between them; `outliers` channels are 30 times as
    large.
    """
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, n, patches)
    cover = np.zeros((n, patches))
    x = rng.normal(size=(n, channels))[owner] + 0.4 * rng.normal(size=(patches, channels))
    cover[owner, np.arange(patches)] = rng.uniform(0.3, 1, patches)
    wholes = cover[0:6:2] + cover[1:6:2]
    cover = np.concatenate([cover, wholes, cover[:1] * 0])
    cover[:, :3] = 0
    x[:, rng.choice(channels, outliers, replace=False)] *= 30
    return cover.astype(np.float16), x.astype(np.float16)


def stored(cover: Half, x: Half) -> Half:
    means = superpixel_means(cover, x)
    return decode(cover, means, *encode(cover, means, x))


def relative(found: NDArray[np.floating], x: Half) -> float:
    exact = x.astype(np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 70), st.integers(1, 200), st.integers(0, 3))
def test_error_is_at_most_half_a_scale(seed: int, patches: int, channels: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    cover = (rng.random((n, patches)) * (rng.random((n, patches)) < 0.5)).astype(np.float16)
    x = (rng.normal(size=(patches, channels)) * 10.0 ** rng.integers(-3, 4)).astype(np.float16)
    means = superpixel_means(cover, x)
    q4, scale = encode(cover, means, x)
    assert (q4.dtype, q4.shape) == (np.uint8, (patches, -(-channels // 2)))
    assert (scale.dtype, scale.shape) == (np.float16, (patches, -(-channels // 64)))
    found = decode(cover, means, q4, scale)
    assert found.dtype == np.float16 and found.shape == x.shape
    half = np.repeat(scale.astype(np.float64), 64, axis=1)[:, :channels] / 2
    rounding = np.abs(x.astype(np.float64)) * 2.0**-10 + half * 2.0**-9 + 2.0**-24
    assert (np.abs(found.astype(np.float64) - x) <= half + rounding).all()


def test_matches_the_definition() -> None:
    cover = np.array([[1, 0.5, 0, 0], [0, 0.5, 1, 0]], np.float16)
    x = np.array([[2, 7, 0], [4, 1, 0], [6, 8, 0], [7, -7, 3.5]], np.float16)
    means = superpixel_means(cover, x)
    assert means[:, 0].tolist() == [np.float16(4 / 1.5), np.float16(8 / 1.5)]
    between = (means[0].astype(np.float32) + means[1]) / 2
    np.testing.assert_array_equal(predicted(cover, means)[[0, 1, 3]], [means[0], between, [0] * 3])
    q4, scale = encode(cover, means, x)
    assert scale[3].tolist() == [1.0], "the largest of the uncovered patch, 7, over 7"
    # Channels 0 and 2 lie in byte 0, low and high bits, channel 1 in byte 1; each plus 8.
    assert q4[3].tolist() == [7 + 8 | (4 + 8) << 4, -7 + 8]
    assert decode(cover, means, q4, scale)[3].tolist() == [7, -7, 4]


@pytest.mark.parametrize(("outliers", "bound"), [(0, 0.05), (6, 0.07)])
def test_error_on_features_with_outlier_channels(outliers: int, bound: float) -> None:
    cover, x = scene(1, patches=400, channels=512, n=30, outliers=outliers)
    error = relative(stored(cover, x), x)
    alone = relative(stored(np.zeros((0, 400), np.float16), x), x)  # four bits, no mean under them
    assert error < bound and error < 0.5 * alone
    means = superpixel_means(cover, x)
    assert relative(superpixel_means(cover, stored(cover, x)), means) < 0.6 * error


def test_means_are_those_of_the_projector() -> None:
    cover, x = scene(2)
    ours, theirs = (
        superpixel_means(cover, x),
        pool(*(torch.from_numpy(a)[None] for a in (cover, x))),
    )
    assert not ours[-1].any(), "out of view"
    step = np.abs(np.spacing(ours).astype(np.float64))
    assert (np.abs(ours.astype(np.float64) - theirs[0].numpy()) <= step).all()


def test_one_patch_does_not_influence_another() -> None:
    cover, x = scene(3)
    means = superpixel_means(cover, x)
    q4, scale = encode(cover, means, x)
    one = encode(cover[:, 7:8], means, x[7:8])
    assert (one[0].tobytes(), one[1].tobytes()) == (q4[7:8].tobytes(), scale[7:8].tobytes())
    part = decode(cover[:, 7:8], means, *one)
    assert part.tobytes() == decode(cover, means, q4, scale)[7:8].tobytes()


def test_padding_of_the_superpixels_changes_nothing() -> None:
    cover, x = scene(4)
    means = superpixel_means(cover, x)
    q4, scale = encode(cover, means, x)
    wide, more = (np.concatenate([a, np.zeros_like(a)]) for a in (cover, means))
    assert decode(wide, more, q4, scale).tobytes() == decode(cover, means, q4, scale).tobytes()


def test_the_largest_values_stay_finite() -> None:
    cover = np.ones((1, 2), np.float16)
    x = np.array([[65504, -65504], [65504, 65504]], np.float16)
    assert np.isfinite(stored(cover, x)).all()
