"""Data classes shared by the packages.

Letters: N superpixels, P patches, C channels, H W pixels, G cells of the SSPE mask grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUB_PART, PART, WHOLE = 0, 1, 2  # index of SAM's multimask output (as FMA-WSSS counts them)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One photograph. `path` is relative to its source's image root and already checked."""

    image_id: int
    path: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Rle:
    """COCO compressed run-length mask: column-major runs, first run counts zeros."""

    height: int
    width: int
    counts: bytes

    def coco(self) -> dict[str, object]:
        """The dict form pycocotools takes."""
        return {"size": [self.height, self.width], "counts": self.counts}


@dataclass(frozen=True, slots=True)
class Expression:
    """One sentence; `mask` is the union of all that it refers to, empty if that is nothing.

    `ann_id` is the object's in its file, or negative where the target is several objects or none.
    `ignore` is a region that counts neither for nor against a prediction. `box` (x1 y1 x2 y2, pixels,
    exclusive maxima) is all that is known of some targets; then `mask` is the filled box.
    """

    sent_id: int
    ref_id: int
    ann_id: int
    image_id: int
    text: str
    mask: Rle
    ignore: Rle | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Superpixels:
    """Semantic superpixels of one image, in the filter's order. Never empty; may overlap.

    rles           N COCO compressed RLEs (counts bytes) at H x W, the original image size
    level          (N,) uint8, 0 sub-part, 1 part, 2 whole
    predicted_iou  (N,) float32, SAM's own estimate, no offset added (SLIC: 1.0)
    stability      (N,) float32 (SLIC: 1.0)
    area           (N,) int32, pixels
    box            (N,4) int32, x1 y1 x2 y2 with INCLUSIVE maxima
    point          (N,2) float32, the prompt in image pixels, x y
    crop           (N,4) int32, the crop box the mask came from, exclusive maxima
    fallback       True if nothing survived and the one superpixel is the whole image
    survivors      masks left after each selection step, by step name, for the statistics
    """

    height: int
    width: int
    rles: tuple[bytes, ...]
    level: NDArray[np.uint8]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    area: NDArray[np.int32]
    box: NDArray[np.int32]
    point: NDArray[np.float32]
    crop: NDArray[np.int32]
    fallback: bool = False
    survivors: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rles)

    def masks(self) -> tuple[Rle, ...]:
        """The superpixels as `Rle` records."""
        return tuple(Rle(self.height, self.width, counts) for counts in self.rles)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that could not be processed: a stable reason code and one line of detail."""

    image_id: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ImageRow:
    """Values that the cache stores of one image; None where a layer was not asked for, or refused.

    patches     (P,C) float16 patch features, raster order of the patch grid
    cover       (N,P) float16, share of each patch covered by each superpixel
    sspe_masks  (N,ceil(G/8)) uint8, superpixels on the SSPE grid, bit-packed, high bit first
    cls         (C,) float16 or None
    layers      (L,P,C) float16 extra encoder layers or None
    sam         (256,64,64) float16 SAM image embedding or None
    means       (N,C) float16 mean of the features under each superpixel, where there are no patches
    refused     kind of layer -> why it cannot hold this image; the other layers can
    """

    image_id: int
    superpixels: Superpixels | None = None
    patches: NDArray[np.float16] | None = None
    cover: NDArray[np.float16] | None = None
    sspe_masks: NDArray[np.uint8] | None = None
    cls: NDArray[np.float16] | None = None
    layers: NDArray[np.float16] | None = None
    sam: NDArray[np.float16] | None = None
    means: NDArray[np.float16] | None = None
    refused: Mapping[str, Quarantined] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalPaths:
    """Paths on this machine: never part of a digest, so a cache can be moved.

    `images` is the image root; `sam`, `encoder` and `second` (the encoder beside it) are weight
    files or folders, or None for the shipped tiny weights (or random ones, where the recipe says
    so). `masks` is the folder of masks that another program made.
    """

    images: Path
    sam: Path | None = None
    encoder: Path | None = None
    second: Path | None = None
    masks: Path | None = None
