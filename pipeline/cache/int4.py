"""Superpixel means, and features as their differences from these in int4.

What a superpixel's patches have in common is most of their features, so the mean of each superpixel
(float16) and four bits per value for the rest take a third of float16's bytes. Every sum runs in
the order of the patches or superpixels, with products that float32 holds exactly, so both
directions give the same bits on every machine and need no calibration pass.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.binary import round_into
from .int8 import GROUP, MOST, grouped, scales_of, ungrouped

Array = NDArray[Any]
PEAK = 7
BLOCK = 64  # patches
LEAST = 1e-6  # coverage; a superpixel out of view has the mean 0, as in `model.projectors.svp.ssa`


def superpixel_means(cover: Array, patches: Array) -> NDArray[np.float16]:
    """(n,P) cover and (P,C) features, float16, to (n,C): the mean of each superpixel by coverage."""
    total = cover.sum(axis=1, keepdims=True, dtype=np.float64)
    sums = _sparse(cover) @ patches.astype(np.float32)
    means: NDArray[np.float16] = (sums / np.maximum(total, LEAST)).astype(np.float16)
    return means


def encode(
    cover: Array, means: NDArray[np.float16], patches: NDArray[np.float16]
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """(P,C) features less the means of their superpixels, in int4 with scales.

    Returns (P,ceil(C/2)) uint8, channel j in the low and channel j + ceil(C/2) in the high four
    bits of byte j, each plus 8, and (P,ceil(C/64)) float16 scales. A value is
    `prediction + q * scale` with q in -7..7; the error is at most half a scale.
    """
    rest = patches.astype(np.float32) - predicted(cover, means)
    groups = grouped(rest)
    scale, divisor = scales_of(groups, PEAK)
    q = ungrouped(np.rint(groups / divisor), patches.shape[-1])
    half = -(-q.shape[-1] // 2)
    nibbles = np.zeros((len(q), 2 * half), np.uint8)
    nibbles[:, : q.shape[-1]] = (q + 8).astype(np.uint8)
    return nibbles[:, :half] | nibbles[:, half:] << 4, scale


def decode(
    cover: Array,
    means: NDArray[np.float16],
    q4: NDArray[np.uint8],
    scale: NDArray[np.float16],
) -> NDArray[np.float16]:
    """The (P,C) features that `encode` of these means gave `q4` and `scale` of, as float16."""
    channels, half = means.shape[-1], q4.shape[-1]
    out = np.empty((len(q4), channels), np.float16)
    means32, weights, total = means.astype(np.float32), _sparse(cover.T), _covered(cover)
    steep = float(np.abs(means).max(initial=0)) + PEAK * float(scale.max(initial=0)) > MOST
    # A few patches at a time: what lies between stays in the processor's cache.
    q = np.empty((BLOCK, 2 * half), np.int8)
    rest = np.empty((BLOCK, scale.shape[-1], GROUP), np.float32)
    for start in range(0, len(q4), BLOCK):
        block = slice(start, start + BLOCK)
        packed = q4[block]
        n = len(packed)
        np.subtract((packed & 15).view(np.int8), 8, out=q[:n, :half])
        np.subtract((packed >> 4).view(np.int8), 8, out=q[:n, half:])
        factors = scale[block].astype(np.float32)[..., None]
        np.multiply(grouped(q[:n, :channels]), factors, out=rest[:n])
        values = weights[block] @ means32
        values /= total[block]
        values += ungrouped(rest[:n], channels)
        if steep:  # a scale rounded up would end in infinity
            np.clip(values, -MOST, MOST, out=values)
        round_into(values, out[block])
    return out


def predicted(cover: Array, means: NDArray[np.float16]) -> NDArray[np.float32]:
    """(P,C): the mean of the superpixels on each patch, by coverage; 0 where there is none."""
    found: NDArray[np.float32] = _sparse(cover.T) @ means.astype(np.float32)
    return found / _covered(cover)


def _covered(cover: Array) -> NDArray[np.float32]:
    """(P,1) sum of the coverages of each patch, 1 where there is none."""
    total = cover.sum(axis=0, dtype=np.float64)[:, None]
    return np.where(total > 0, total, 1).astype(np.float32)


def _sparse(weights: Array) -> Any:
    """Most weights are 0; products sum over the others in order."""
    from scipy.sparse import csr_array  # here: a reader of other features is spared its import

    return csr_array(weights.astype(np.float32))
