"""int8 features: a scale per token and group of 64 channels.

Half the bytes of float16 for a relative error of about 1 %. The scale needs no calibration pass, so
a shard stays a pure function of its images. Outlier channels spoil only their own group.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

GROUP = 64  # channels
_PEAK = 127
MOST = 65504.0  # of float16

T = TypeVar("T", bound=np.generic)


def quantise(x: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(...,P,C) finite features to int8 (...,P,C) and scales (...,P,ceil(C/64)) float16.

    A value is `q * scale`; the error is at most half a scale. An all-zero group has scale 0.
    """
    groups = grouped(np.asarray(x, np.float32))
    scale, divisor = scales_of(groups, _PEAK)
    q = np.rint(groups / divisor).astype(np.int8)
    return np.ascontiguousarray(ungrouped(q, x.shape[-1])), scale


def dequantise(q: NDArray[np.int8], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    """The float32 features that `q` and `scale` of `quantise` stand for."""
    groups = grouped(q) * scale.astype(np.float32)[..., None]
    values = np.ascontiguousarray(ungrouped(groups.astype(np.float32, copy=False), q.shape[-1]))
    if _PEAK * float(scale.max(initial=0)) > MOST:  # a scale rounded up would end in infinity
        np.clip(values, -MOST, MOST, out=values)
    return values


def scales_of(
    groups: NDArray[np.float32], peak: int
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Scales (...,groups) that bring (...,groups,64) values to -peak..peak, and (...,groups,1) divisors."""
    most = np.abs(groups).max(axis=-1, initial=0)
    scale = (most / peak).astype(np.float16)
    # A scale rounded down would cut the peak off, by half of it near the end of float16.
    short = scale.astype(np.float32) * peak < most
    scale = np.where(short, np.nextafter(scale, np.float16(np.inf)), scale)
    # Divide by the scale as stored: rounding it afterwards would add its error to every value.
    return scale, np.where(scale > 0, scale, 1).astype(np.float32)[..., None]


def grouped(x: NDArray[T]) -> NDArray[T]:
    """(...,C) to (...,groups,64), the last group filled up with zeros."""
    channels = x.shape[-1]
    missing = -channels % GROUP
    if missing:
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return x.reshape(*x.shape[:-1], -1, GROUP)


def ungrouped(groups: NDArray[T], channels: int) -> NDArray[T]:
    """(...,groups,64) to (...,C): the inverse of `grouped`."""
    return groups.reshape(*groups.shape[:-2], -1)[..., :channels]
