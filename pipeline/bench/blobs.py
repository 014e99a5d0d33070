"""Decoder outputs without a decoder: what SAM would say about a scene of nested smooth blobs.

Every whole object holds parts, every part sub-parts, as SAM's three outputs nest. A prompt answers
with the blobs under its point; each answer wobbles a little and carries specks, so that duplicates,
unstable masks, holes and islands arise as with a real decoder. Deterministic in the seed.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

LOW = 256  # side of SAM's low-resolution logits; its padded input is four times that
OBJECTS = 80
SLOPE = 12.0  # logits per low-res pixel at a border: a blob of radius 8 is 0.96 stable
WOBBLE = 5.0  # logits; moves borders by about half a low-res pixel
LOWEST = (0.6, 0.6, 0.3)  # of the scores: sub-parts, parts, wholes
SPECKS = 3e-4  # share of low-res pixels in and around a blob that have the wrong sign


@dataclass(frozen=True, slots=True)
class DecoderOutputs:
    """low (P,3,256,256) float16 logits and iou (P,3) float32 of a square grid of P points."""

    low: Tensor
    iou: Tensor


def decoder_outputs(side: int, height: int, width: int, seed: int = 0) -> DecoderOutputs:
    """Outputs for `side` x `side` prompts (x fastest) on a height x width image."""
    rng = np.random.default_rng(seed)
    extent = LOW * np.array([width, height]) / max(width, height)  # the un-padded region, x y
    centre = _spread(extent, rng)
    radius = rng.choice([9.0, 13.0, 20.0, 50.0], OBJECTS, p=[0.35, 0.4, 0.2, 0.05])
    whole = radius
    fields = [_blobs(centre, radius, rng)]
    for share in (0.7, 0.65):  # parts, then sub-parts, each inside its parent
        radius = radius * share
        angle = rng.uniform(0, 2 * np.pi, OBJECTS)
        away = 0.35 * radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
        centre = centre + away
        fields.insert(0, _blobs(centre, radius, rng))
    nested = torch.stack(fields, dim=1)  # (OBJECTS,3,256,256): sub-part, part, whole
    return _answers(nested, whole, _grid(side, extent), rng)


def _answers(
    nested: Tensor,
    radius: NDArray[np.float64],
    points: NDArray[np.float64],
    rng: np.random.Generator,
) -> DecoderOutputs:
    x, y = np.clip(points.round().astype(int), 0, LOW - 1).T
    inside = nested[:, 2, y, x]  # (OBJECTS,P) how deep each point lies in each object
    small_first = 1000 - torch.from_numpy(radius).float()[:, None]
    owner = torch.where(inside > 0, small_first, inside).argmax(0).numpy()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    low = torch.empty((len(points), 3, LOW, LOW), dtype=torch.float16)
    for i, which in enumerate(owner):
        noise = torch.randn((1, 3, 24, 24), generator=generator) * WOBBLE
        smooth = F.interpolate(noise, (LOW, LOW), mode="bicubic", align_corners=False)[0]
        specks = torch.rand((3, LOW, LOW), generator=generator) < SPECKS
        specks &= nested[which] > -4 * SLOPE
        low[i] = torch.where(specks, -nested[which], nested[which] + smooth).clamp(-20, 20)
    depth = inside.amax(0)[:, None].clamp(-10, 10) / 10  # points at borders score lower
    # Some objects are no whole, some no part: SAM scores them low at that level everywhere.
    quality = torch.from_numpy(rng.uniform(LOWEST, 1.0, (OBJECTS, 3))).float()[owner]
    scatter = torch.randn((len(points), 3), generator=generator) * 0.04
    return DecoderOutputs(low, quality + 0.08 * depth + scatter)


def _blobs(
    centre: NDArray[np.float64], radius: NDArray[np.float64], rng: np.random.Generator
) -> Tensor:
    """(K,256,256) logits of wobbly discs: positive inside, SLOPE per pixel at the border."""
    y, x = np.mgrid[:LOW, :LOW]
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    angle, away = np.arctan2(dy, dx), np.hypot(dx, dy)
    edge = radius[:, None, None] * np.ones_like(away)
    for wave in (2, 3, 5):
        size, phase = rng.uniform(0, 0.15, len(radius)), rng.uniform(0, 2 * np.pi, len(radius))
        edge = edge * (1 + size[:, None, None] * np.cos(wave * angle + phase[:, None, None]))
    return torch.from_numpy((edge - away) * SLOPE).float()


def _spread(extent: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(OBJECTS,2) centres x y, one in each cell of an even grid."""
    cells = 12 * (np.arange(OBJECTS) + 0.5) / OBJECTS
    place = np.stack((cells % 1, (np.floor(cells) + 0.5) / 12), axis=1)
    return (place + rng.uniform(-0.03, 0.03, (OBJECTS, 2))) * extent


def _grid(side: int, extent: NDArray[np.float64]) -> NDArray[np.float64]:
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres * extent[0], centres * extent[1])
    return np.stack((x.ravel(), y.ravel()), axis=1)
