"""Masks as unions of superpixels, and how long an answer takes with and without SAM's decoder."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.masks import rle
from ...pipeline.records import Rle
from ..data.collate import VisualSource
from ..data.expression_table import Entry

Mask = NDArray[np.bool_]

NOWHERE = -30.0  # logit of a pixel under no superpixel that is meant
LEAST = 1e-6  # of one under the best superpixel


def union_logits(scores: Tensor, pieces: Sequence[Rle]) -> Tensor:
    """(H,W) float32: of each pixel the best score of the superpixels over it that are meant.

    The best superpixel always is: an answer with [SEG] means something. Scores that are NaN give a mask
    that is, as SAM's decoder would.

    scores  (K,) float32 of the tokens (`RisModel.meant`), on any device
    pieces  the superpixels behind the first tokens, at least one; those after them have no pixels
    """
    size, values = (pieces[0].height, pieces[0].width), scores.tolist()[: len(pieces)]
    if any(map(math.isnan, values)):
        return torch.full(size, math.nan)
    found, best = torch.full(size, NOWHERE), max(values)
    for score, k in sorted((score, k) for k, score in enumerate(values)):
        if score > 0 or score == best:
            found[torch.from_numpy(rle.decode(pieces[k])).bool()] = max(score, LEAST)
    return found


def pieces_of(
    visuals: VisualSource, looks: Sequence[tuple[Entry, int | None]], kept: Tensor | None = None
) -> list[tuple[list[Rle], list[Rle]]]:
    """Of each dialogue the superpixels behind its tokens, and all those of its image.

    looks  image of each dialogue, and key of its superpixels' order
    kept   (B,N) bool, which of the image's each dialogue keeps; None: all
    """
    known = {look: visuals.pieces(*look) for look in dict.fromkeys(looks)}
    every = [known[look] for look in looks]
    if kept is None:
        return [(whole, whole) for whole in every]
    return [
        ([piece for piece, stays in zip(whole, row, strict=False) if stays], whole)
        for whole, row in zip(every, kept.tolist(), strict=True)
    ]


def recall(kept: Sequence[Rle], every: Sequence[Rle], target: Mask) -> float:
    """Share of what superpixels cover of a target (H,W) that is under those kept; 1 for nothing."""
    own, whole = (
        np.any([rle.decode(piece).view(np.bool_) & target for piece in pieces], axis=0)
        for pieces in (kept, every)
    )
    return ratio(own, whole)


def ratio(part: Mask, whole: Mask) -> float:
    """Pixels of one by those of the other; 1 where both are empty."""
    return float(part.sum() / whole.sum()) if whole.any() else 1.0


@dataclass(frozen=True)
class Clock:
    """Seconds per answer of each part of an evaluation, batch by batch; `device` is waited for."""

    device: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def timing(self, part: str, answers: int) -> Iterator[None]:
        """Measure a part of so many answers."""
        began = time.perf_counter()
        yield
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds.setdefault(part, []).append((time.perf_counter() - began) / answers)

    def line(self, embedding: float | None) -> str:
        """For people; `embedding`: seconds of SAM's embedding of a photograph, None: not measured.

        What the language model reads of an image is shared by the questions of a batch, so that it takes
        longer where a photograph is asked about once.
        """
        if "union" not in self.seconds:  # all came from an earlier run
            return "seconds per answer: none was computed now"
        parts = {name: median(values) for name, values in self.seconds.items()}
        read, union, decoder = parts["read"], parts["union"], parts.get("decoder")
        said = f"seconds per answer: language model {read:.4f}, mask {union:.4f} as a union"
        if decoder is None:
            return said
        said += f", {decoder:.4f} by SAM's decoder ({decoder / union:.1f} times)"
        if embedding is None:
            return said
        whole = decoder + embedding
        return (
            f"{said}, {whole:.4f} with SAM's embedding of a photograph that is asked about once "
            f"({whole / union:.1f} times; with the language model "
            f"{(read + whole) / (read + union):.1f} times)"
        )
