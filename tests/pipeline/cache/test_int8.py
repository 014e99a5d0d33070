"""int8 features: bounded error, outliers kept apart, exact where it can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from support.rounding import relative_error
from svp.pipeline.cache.int8 import dequantise, quantise


def layer_normed(tokens: int, channels: int, seed: int) -> NDArray[np.float16]:
    x = np.random.default_rng(seed).normal(size=(tokens, channels))
    return x.astype(np.float16)


@settings(max_examples=80, deadline=None)
@given(
    arrays(
        np.float16,
        st.tuples(st.integers(1, 4), st.integers(1, 200)),
        elements=st.floats(-65504, 65504, width=16),
    )
)
def test_error_is_at_most_half_a_scale(x: NDArray[np.float16]) -> None:
    q, scale = quantise(x)
    groups = -(-x.shape[1] // 64)
    assert q.dtype == np.int8 and q.shape == x.shape
    assert scale.dtype == np.float16 and scale.shape == (x.shape[0], groups)
    error = np.abs(dequantise(q, scale).astype(np.float64) - x)
    bound = np.repeat(scale.astype(np.float64), 64, axis=1)[:, : x.shape[1]] / 2
    assert (error <= bound * (1 + 1e-6)).all()


def test_matches_the_definition() -> None:
    x = np.zeros((1, 65), np.float16)
    x[0, :3] = 127, -1.5, 63.5
    x[0, 64] = -254
    q, scale = quantise(x)
    assert scale.tolist() == [[1.0, 2.0]]
    assert q[0, :3].tolist() == [127, -2, 64] and q[0, 64] == -127  # ties go to the even number
    assert not q[0, 3:64].any()


def test_zero_and_smallest_values() -> None:
    x = np.zeros((2, 64), np.float16)
    x[1, 5] = 2.0**-24
    q, scale = quantise(x)
    assert scale[0, 0] == 0 and not q[0].any()
    assert dequantise(q, scale)[1, 5] == np.float32(2.0**-24)


def test_an_outlier_spoils_only_its_group() -> None:
    x = layer_normed(50, 256, 0)
    loud = x.copy()
    loud[:, 7] = 400
    calm, spoilt = dequantise(*quantise(x)), dequantise(*quantise(loud))
    np.testing.assert_array_equal(calm[:, 64:], spoilt[:, 64:])
    assert np.abs(spoilt[:, :64] - loud[:, :64]).max() > 10 * np.abs(calm[:, :64] - x[:, :64]).max()


def test_relative_error_of_normal_features() -> None:
    error = relative_error(layer_normed(576, 1024, 1))
    # Uniform rounding error scale/sqrt(12), scale = E max of 64 normals / 127: about 0.0055.
    assert error.shape == (576,)
    assert 0.004 < error.mean() < 0.007
    assert relative_error(np.zeros((2, 64), np.float16)).tolist() == [0, 0]


def test_tokens_do_not_influence_each_other() -> None:
    x = layer_normed(9, 130, 2)
    q, scale = quantise(x)
    one_q, one_scale = quantise(x[4:5])
    assert one_q.tobytes() == q[4:5].tobytes() and one_scale.tobytes() == scale[4:5].tobytes()


@pytest.mark.parametrize("shape", [(3, 5, 128), (2, 1, 64)])
def test_leading_axes_are_kept(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    q, scale = quantise(x)
    assert scale.shape == (*shape[:-1], shape[-1] // 64)
    assert dequantise(q, scale).shape == shape


def test_the_largest_values_stay_finite() -> None:
    x = np.array([[65504, -65504, 1.0], [60000, 2, 3]], np.float16)
    back = dequantise(*quantise(x)).astype(np.float16)
    assert back[0, :2].tolist() == [65504, -65504] and np.isfinite(back).all()
