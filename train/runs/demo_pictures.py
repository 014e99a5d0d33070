"""Pictures of `svp demo`: a photograph's superpixels, and the attention of an answer to them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...pipeline.masks import rle
from ...pipeline.records import PART, SUB_PART, WHOLE, Superpixels
from .session import Attended

LEVELS = {SUB_PART: "sub-part", PART: "part", WHOLE: "whole"}
ORANGE = np.array([230, 130, 0], np.float32)  # far from the mask's blue for all eyes
EDGE = np.array([255, 255, 255], np.float32)
Sections = list[tuple[NDArray[np.uint8], str]]


@dataclass(frozen=True)
class Picture:
    """A photograph on the page: its superpixels, the largest at the back."""

    photo: NDArray[np.uint8]
    names: tuple[str, ...]
    masks: NDArray[np.bool_]
    order: tuple[int, ...]

    @property
    def sections(self) -> Sections:
        """For `gradio.AnnotatedImage`."""
        return [(self.masks[k].astype(np.uint8), self.names[k]) for k in self.order]


def picture(photo: NDArray[np.uint8], found: Superpixels) -> Picture:
    """The superpixels of an (H,W,3) uint8 photograph, named "12 part" and so on."""
    masks = np.stack([rle.decode(one) for one in found.masks()]).astype(bool)
    names = tuple(f"{k} {LEVELS[int(level)]}" for k, level in enumerate(found.level, 1))
    order = tuple(int(k) for k in np.argsort(-found.area, kind="stable"))
    return Picture(photo, names, masks, order)


def attention_picture(shown: Picture, attended: Attended) -> NDArray[np.uint8]:
    """(H,W,3) uint8: the photograph in grey, each superpixel the more orange the more attention its
    token gets, the most attended one fully. Outlined are those that have a token.
    """
    shares = np.nan_to_num(attended.shares)
    strength = np.zeros(shown.photo.shape[:2], np.float32)
    edges = np.zeros(strength.shape, np.bool_)
    for k in shown.order:
        mask = shown.masks[k]
        strength[mask] = shares[k] / max(float(shares.max()), 1e-12)
        edges[mask] = False  # those of superpixels behind it
        if not np.isnan(attended.shares[k]):
            padded = np.pad(mask, 1)
            inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
            edges |= mask & ~inner
    grey = shown.photo.mean(2, keepdims=True).astype(np.float32) * 0.6 + 50
    drawn = grey + (ORANGE - grey) * (0.85 * strength[..., None])
    drawn[edges] = 0.5 * drawn[edges] + 0.5 * EDGE
    found: NDArray[np.uint8] = drawn.astype(np.uint8)
    return found
