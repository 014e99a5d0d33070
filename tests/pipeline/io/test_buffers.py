"""Arrays that start 512 bytes into a page."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.io.binary import PAGE, START, empty


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
