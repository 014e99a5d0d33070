"""Finer superpixels from local windows: the paper's future work (its section 7).

The image is tiled as SAM's last crop layer does, 2^i x 2^i overlapping windows. Each window is
prompted and selected by itself, as if it were a photograph: so a large object that would win over
its parts in the whole image does not do so here. Masks are clipped to the window's core, and the
cores tile the image; so the tokens of different windows never overlap. 2x2 windows give about four
times the superpixels and cost four passes of SAM's encoder more.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..masks import runs as rl
from ..masks.rle import decode
from ..recipe import GRID_PRESETS, GridConfig
from ..records import Superpixels
from .candidates import distinct, largest
from .crops import Crop, crop_boxes
from .point_grid import GridPrompter, full_precision

if TYPE_CHECKING:
    from ..sam import SamBackend

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x0 y0 x1 y1, exclusive maxima


class WindowPrompter:
    """As `GridPrompter`, window by window. `config.points_per_side` prompts in every window.

    Raises ConfigError if `config.crop_n_layers` is 0.
    """

    def __init__(
        self,
        backend: "SamBackend",
        config: GridConfig = GRID_PRESETS["windows"],
        mode: Literal["exact", "fast"] = "exact",
        points_per_batch: int = 256,
        max_superpixels: int = 256,
    ) -> None:
        if config.crop_n_layers < 1:
            raise ConfigError("windows need grid.crop_n_layers >= 1")
        self.backend, self.config, self.max_superpixels = backend, config, max_superpixels
        alone = config.model_copy(update={"crop_n_layers": 0})
        self._inner = GridPrompter(
            backend,
            config=alone,
            mode=mode,
            points_per_batch=points_per_batch,
            max_superpixels=max_superpixels,
        )

    def generate_batch(
        self, images: Sequence[Image], return_embeddings: bool = False
    ) -> tuple[list[Superpixels], list[NDArray[np.float16]] | None]:
        """Superpixels of each image and, on request, its whole-image SAM embedding (C,h,w)."""
        found = [self._image(image) for image in images]
        if not return_embeddings:
            return found, None
        with torch.inference_mode(), full_precision():
            whole = self.backend.embed(images)
        return found, [one.to(torch.float16).cpu().numpy() for one in whole]

    def _image(self, image: Image) -> Superpixels:
        height, width = image.shape[:2]
        boxes = windows(height, width, self.config)
        views = [np.ascontiguousarray(image[c.y0 : c.y1, c.x0 : c.x1]) for c in boxes]
        parts, _ = self._inner.generate_batch(views)
        clipped = [
            self._clip(found, window, core, (height, width))
            for found, window, core in zip(parts, boxes, cores(boxes), strict=True)
        ]
        return self._joined(clipped, [part.fallback for part in parts])

    def _clip(
        self, found: Superpixels, window: Crop, core: Box, size: tuple[int, int]
    ) -> Superpixels:
        """A window's superpixels in the frame of the image, cut to its core; slivers are dropped."""
        x0, y0, x1, y1 = core
        masks = np.zeros((len(found), *size), np.bool_)
        for full, mask in zip(masks, found.masks(), strict=True):
            inside = decode(mask).view(np.bool_)
            inside = inside[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
            full[y0:y1, x0:x1] = inside
        area = masks.sum((1, 2))
        keep = np.flatnonzero(area >= np.minimum(self.config.min_mask_region_area, found.area))
        keep = keep[distinct(rl.encode(rl.from_masks(masks[keep])))]
        runs = rl.from_masks(masks[keep])
        return Superpixels(
            height=size[0],
            width=size[1],
            rles=rl.encode(runs),
            level=found.level[keep],
            predicted_iou=found.predicted_iou[keep],
            stability=found.stability[keep],
            area=rl.areas(runs).astype(np.int32),
            box=rl.boxes(runs).astype(np.int32),
            point=(found.point[keep] + np.array([window.x0, window.y0], np.float32)).astype(
                np.float32
            ),
            crop=np.tile(np.array(window.box, np.int32), (len(keep), 1)),
            survivors=dict(found.survivors) | {"in core": len(keep)},
        )

    def _joined(self, parts: Sequence[Superpixels], fallbacks: Sequence[bool]) -> Superpixels:
        first = parts[0]
        keep = largest(np.concatenate([part.area for part in parts]), self.max_superpixels)
        rles = [rle for part in parts for rle in part.rles]
        names = {name for part in parts for name in part.survivors}
        counted = {name: sum(part.survivors.get(name, 0) for part in parts) for name in names}

        def column(name: str) -> NDArray[np.generic]:
            found: NDArray[np.generic] = np.concatenate([getattr(p, name) for p in parts])[keep]
            return found

        columns = {
            name: column(name)
            for name in ("level", "predicted_iou", "stability", "area", "box", "point", "crop")
        }
        return Superpixels(
            height=first.height,
            width=first.width,
            rles=tuple(rles[k] for k in keep.tolist()),
            fallback=all(fallbacks),
            survivors=counted | {"kept": len(keep)},
            **columns,  # type: ignore[arg-type]
        )


def windows(height: int, width: int, config: GridConfig) -> list[Crop]:
    """The crops of the last layer; the image itself where it is too thin to be cut."""
    every = crop_boxes(height, width, config.crop_n_layers, config.crop_overlap_ratio)
    last = [crop for crop in every if crop.layer == config.crop_n_layers]
    return last if len(last) == 4**config.crop_n_layers else every[:1]


def cores(boxes: Sequence[Crop]) -> list[Box]:
    """The part of each window that is nearest to it: overlaps are cut in the middle.

    Cores tile the image.
    """
    columns = _cut(sorted({(box.x0, box.x1) for box in boxes}))
    rows = _cut(sorted({(box.y0, box.y1) for box in boxes}))
    found = []
    for box in boxes:
        (x0, x1), (y0, y1) = columns[box.x0, box.x1], rows[box.y0, box.y1]
        found.append((x0, y0, x1, y1))
    return found


def _cut(spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Spans along one axis, in order -> the same without their overlaps."""
    middles = [(a[1] + b[0]) // 2 for a, b in itertools.pairwise(spans)]
    starts, ends = [spans[0][0], *middles], [*middles, spans[-1][1]]
    return dict(zip(spans, zip(starts, ends, strict=True), strict=True))
