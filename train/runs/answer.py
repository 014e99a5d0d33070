"""The answer of a model about one photograph: a mask, and how it was reached."""

import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageShow

from ...pipeline.errors import ConfigError
from ...pipeline.io.atomic import write_file
from ...pipeline.io.paths import expand
from ...pipeline.masks import rle
from ...pipeline.records import Superpixels
from ..trainer.previews import PREDICTED

Mask = NDArray[np.bool_]
EDGE = np.array([255, 255, 255], np.uint8)


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer: what a model segments as `expression` in a photograph.

    mask     (H,W) bool, of the photograph as viewers show it (EXIF orientation applied)
    score    mean foreground probability over the mask's pixels, in (0.5, 1]; 0 for an empty mask.
             Not calibrated: it orders answers of one model
    tokens   visual tokens that the language model read
    superpixels  what the photograph was cut into; one, the whole, for a model that reads patches
    photo    (H,W,3) uint8 RGB, upright
    timings  seconds: "encode" (superpixels, features, SAM embedding) and "read" (projector and
             language model up to the question) of the photograph, once however much is asked;
             "answer" of the expressions that were asked together
    text     the generated answer; None with teacher forcing
    has_seg  False if the generated answer has no [SEG]: the mask is empty then
    rejected  the answer is that there is no such object: the mask is empty
    rejection  chance of that answer, with teacher forcing: of [REJ] against [SEG], or by token answers
             where `reject_above` was given; else None
    """

    expression: str
    mask: Mask
    score: float
    tokens: int
    superpixels: Superpixels = field(repr=False)
    photo: NDArray[np.uint8] = field(repr=False)
    timings: Mapping[str, float]
    text: str | None = None
    has_seg: bool = True
    rejected: bool = False
    rejection: float | None = None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """x1 y1 x2 y2 around the mask, in pixels with inclusive maxima; None for an empty mask."""
        ys, xs = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return (int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])) if len(xs) else None

    @property
    def overlay(self) -> Image.Image:
        """The photograph with the mask as a blue veil with a white edge."""
        drawn = self.photo.astype(np.float32)
        drawn[self.mask] = 0.5 * drawn[self.mask] + 0.5 * PREDICTED
        padded = np.pad(self.mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        drawn[self.mask & ~inner] = EDGE
        return Image.fromarray(drawn.astype(np.uint8))

    def show(self) -> None:
        """Show the overlay: in the notebook, else in the machine's image viewer.

        Raises ConfigError where there is none.
        """
        if "ipykernel" in sys.modules:
            from IPython.display import display

            display(self.overlay)
        elif not _has_display() or not ImageShow.show(self.overlay):
            raise ConfigError("this machine has no image viewer: write the picture with save(PATH)")

    def save(self, path: str | Path) -> None:
        """Write the answer by the ending of `path`: *.json* the record, *-mask.png* the mask (0 and
        255), any other *.png* the overlay.

        Raises ConfigError (another ending), CacheError (the file cannot be written).
        """
        path = expand(path)
        if path.suffix == ".json":
            data = (json.dumps(self.record(), indent=1, sort_keys=True) + "\n").encode()
        elif path.suffix == ".png":
            mask = path.stem.endswith("-mask")
            data = _png(Image.fromarray(self.mask.astype(np.uint8) * 255) if mask else self.overlay)
        else:
            raise ConfigError(f"{path.name}: answers are written as .png or .json")
        write_file(path, data, label="prediction")

    def record(self) -> dict[str, object]:
        """As JSON: the mask as COCO RLE, superpixels as their number."""
        found = rle.encode(self.mask)
        return {
            "expression": self.expression,
            "mask": {"size": [found.height, found.width], "counts": found.counts.decode("ascii")},
            "score": self.score,
            "area": self.area,
            "box": self.box,
            "tokens": self.tokens,
            "superpixels": len(self.superpixels),
            "text": self.text,
            "has_seg": self.has_seg,
            "rejected": self.rejected,
            "rejection": self.rejection,
        }

    def _repr_png_(self) -> bytes:
        """The overlay, as the last line of a notebook's cell."""
        return _png(self.overlay)


def _has_display() -> bool:
    """Whether a window can be opened; viewers of a Linux without a screen are started and show none."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform != "linux" or any(map(os.environ.get, screens))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
