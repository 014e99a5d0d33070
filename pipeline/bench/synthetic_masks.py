"""Synthetic SAM decoder outputs for scenes of nested smooth blobs.

Every whole object holds parts, every part sub-parts, as SAM's three outputs nest. A prompt answers
with the blobs under its point; each answer wobbles a little and carries specks, so that duplicates,
unstable masks, holes and islands arise as with a real decoder. Deterministic in the seed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from ..sam.mask_decoder import Wanted


SAM_LOW = 256  # side of SAM's low-resolution logits; its padded input is four times that
ROWS = 12  # objects stand in about as many rows
SLOPE = 12.0  # logits per low-res pixel at a border: a blob of radius 8 is 0.96 stable
WOBBLE = 5.0  # logits; moves borders by about half a low-res pixel
LOWEST = (0.6, 0.6, 0.3)  # of the scores: sub-parts, parts, wholes
SPECKS = 3e-4  # share of low-res pixels in and around a blob that have the wrong sign

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DecoderOutputs:
    """low (P,3,L,L) float16 logits and iou (P,3) float32 of a square grid of P points."""

    low: Tensor
    iou: Tensor

    @property
    def image_size(self) -> int:
        """Side of the padded model input, four times L as in SAM."""
        return 4 * self.low.shape[-1]


class Replay:
    """Hands out stored outputs in order, (n,3,L,L) and (n,3) fp32, as a decoder would.

    The logits live in one buffer that the next call overwrites, so that neither path is charged
    for allocating and freeing what a decoder leaves behind.
    """

    def __init__(self, outputs: DecoderOutputs) -> None:
        self._outputs, self._next = outputs, 0
        self._buffer = torch.empty(0)

    def next(self, count: int, wanted: "Wanted | None" = None) -> tuple[Tensor, Tensor]:
        """The next `count` prompts' outputs, the logits of those that are `wanted`."""
        rows = slice(self._next, self._next + count)
        self._next = rows.stop
        stored, iou = self._outputs.low[rows], self._outputs.iou[rows]
        if len(self._buffer) < len(stored):
            self._buffer = torch.empty(stored.shape)
        chosen = range(len(stored)) if wanted is None else wanted(iou).nonzero()[:, 0].tolist()
        for target, index in zip(self._buffer, chosen, strict=False):
            target.copy_(stored[index])
        return self._buffer[: len(chosen)], iou


def decoder_outputs(
    side: int, height: int, width: int, seed: int = 0, low: int = SAM_LOW
) -> DecoderOutputs:
    """Outputs for `side` x `side` prompts (x fastest) on a height x width image.

    low  side L of the logits; a smaller one has fewer objects of the same size in pixels
    """
    rng = np.random.default_rng(seed)
    objects = max(8, 80 * low**2 // SAM_LOW**2)
    extent = low * np.array([width, height]) / max(width, height)  # the un-padded region, x y
    centre = _spread(objects, extent, rng)
    radius = whole = rng.choice([9.0, 13.0, 20.0, 50.0], objects, p=[0.35, 0.4, 0.2, 0.05])
    fields = [_blobs(low, centre, radius, rng)]
    for share in (0.7, 0.65):  # parts, then sub-parts, each inside its parent
        radius = radius * share
        angle = rng.uniform(0, 2 * np.pi, objects)
        centre = centre + 0.35 * radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
        fields.insert(0, _blobs(low, centre, radius, rng))
    nested = torch.stack(fields, dim=1)  # (K,3,L,L): sub-part, part, whole
    x, y = np.clip(_grid(side, extent).round().astype(int), 0, low - 1).T
    inside = nested[:, 2, y, x]  # (K,P) how deep each point lies in each object
    small_first = 1000 - torch.from_numpy(whole).float()[:, None]
    owner = torch.where(inside > 0, small_first, inside).argmax(0)
    return _answers(nested, owner, inside.amax(0), rng)


def _answers(
    nested: Tensor, owner: Tensor, depth: Tensor, rng: np.random.Generator
) -> DecoderOutputs:
    """Outputs of each prompt for its object `owner` (P,), `depth` (P,) logits inside it."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    count, shape = len(owner), nested.shape[-2:]
    low = torch.empty((count, 3, *shape), dtype=torch.float16)
    for answer, which in zip(low, owner.tolist(), strict=True):
        field = nested[which][None]
        noise = torch.randn((1, 3, 24, 24), generator=generator) * WOBBLE
        smooth = F.interpolate(noise, shape, mode="bicubic", align_corners=False)
        specks = torch.rand((1, 3, *shape), generator=generator) < SPECKS
        specks &= field > -4 * SLOPE
        answer[:] = torch.where(specks, -field, field + smooth)[0].clamp(-20, 20)
    # Some objects are no whole, some no part: SAM scores them low at that level everywhere.
    quality = torch.from_numpy(rng.uniform(LOWEST, 1.0, (len(nested), 3))).float()[owner]
    scatter = torch.randn((count, 3), generator=generator) * 0.04
    border = depth[:, None].clamp(-10, 10) / 10  # points at borders score lower
    return DecoderOutputs(low, quality + 0.08 * border + scatter)


def _blobs(low: int, centre: Floats, radius: Floats, rng: np.random.Generator) -> Tensor:
    """(K,L,L) logits of wobbly discs: positive inside, SLOPE per pixel at the border."""
    y, x = np.mgrid[:low, :low].astype(np.float32)
    fields = []
    for (x0, y0), size in zip(centre.astype(np.float32), radius.astype(np.float32), strict=True):
        angle, edge = np.arctan2(y - y0, x - x0), np.full_like(x, size)
        for wave in (2, 3, 5):
            swing, phase = rng.uniform(0, 0.15), rng.uniform(0, 2 * np.pi)
            edge *= 1 + np.float32(swing) * np.cos(wave * angle + np.float32(phase))
        fields.append(torch.from_numpy((edge - np.hypot(x - x0, y - y0)) * np.float32(SLOPE)))
    return torch.stack(fields)


def _spread(objects: int, extent: Floats, rng: np.random.Generator) -> Floats:
    """(K,2) centres x y, one in each cell of an even grid."""
    rows = min(ROWS, max(1, round(objects**0.5)))
    cells = rows * (np.arange(objects) + 0.5) / objects
    place = np.stack((cells % 1, (np.floor(cells) + 0.5) / rows), axis=1)
    centre: Floats = (place + rng.uniform(-0.03, 0.03, (objects, 2))) * extent
    return centre


def _grid(side: int, extent: Floats) -> Floats:
    """(P,2) prompt points x y in low-res pixels, x fastest."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres * extent[0], centres * extent[1])
    return np.stack((x.ravel(), y.ravel()), axis=1)
