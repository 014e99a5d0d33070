"""Arrays that start 512 bytes into a page; rounding to float16."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.io.binary import ONE_THREAD, PAGE, START, empty, round_into


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from([np.uint8, np.float16, np.int64]),
)
def test_any_shape_is_writable_contiguous_and_in_place(
    shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    found = empty(shape, dtype)
    assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
    assert found.flags.c_contiguous and found.flags.writeable and found.flags.aligned
    assert found.nbytes < PAGE or found.ctypes.data % PAGE == START
    found[...] = 1  # the last byte is inside the allocation
    assert (found == 1).all()


def test_rounding_is_that_of_numpy() -> None:
    x = np.random.default_rng(0).normal(size=2 * ONE_THREAD + 7).astype(np.float32)
    x[:9] = 0, -0.0, 65504, 65519, 65520, -1e9, 2.0**-24, 2.0**-25, 1 + 2.0**-11
    x[9:2000] *= 1e-6  # subnormal
    out = np.empty(x.shape, np.float16)
    round_into(x, out)
    with np.errstate(over="ignore"):
        assert out.tobytes() == x.astype(np.float16).tobytes()
