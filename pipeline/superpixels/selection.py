"""Selection of superpixels from SAM's candidate masks, in the published order.

Pure NumPy: no pixel, no device. Order and rules are those of FMA-WSSS `SamAuto.generate` on top of
segment-anything's `SamAutomaticMaskGenerator`; all score comparisons are fp32, as published.
`point_grid.GridPrompter` supplies the masks.

Box NMS equals torchvision's on a CPU, with ties kept in list order: torchvision re-sorts with an
unstable sort above 4000 / 4 boxes (`batched_nms`, "vanilla" branch) and scores tie often here, so
its results would depend on the batch size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..masks import runs as rl
from ..masks.runs import Ints
from ..recipe import GridConfig
from ..records import WHOLE, Rle, Superpixels
from .candidates import Boxed, Candidates, concat, distinct, full_image, largest, to_superpixels
from .cleanup import clean
from .crops import Crop, near_crop_edge
from .fma import keep_superpixels


def nms(
    boxes: NDArray[np.number], scores: NDArray[np.number], threshold: float
) -> NDArray[np.int64]:
    """Indices of the boxes that stay, best score first.

    boxes   (N,4) x1 y1 x2 y2; area is (x2-x1)*(y2-y1), so a one-row or one-column box has area 0
            and an IoU of 0 or NaN with everything: it is never suppressed
    scores  (N,) sorted descending and stably
    A box is dropped if its fp32 IoU with a kept box is `>` threshold (compared in fp64, as the C++
    kernel of pytorch/vision torchvision/csrc/ops/cpu/nms_kernel.cpp does).
    """
    order = np.argsort(-scores.astype(np.float32), kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T, np.float32)
    area = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(order), np.bool_)
    for i in range(len(order)):
        if alive[i]:
            rest = slice(i + 1, None)
            width = np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest])
            height = np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest])
            inter = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
            with np.errstate(divide="ignore", invalid="ignore"):
                iou = inter / (area[i] + area[rest] - inter)
            alive[rest] &= ~(iou.astype(np.float64) > threshold)
    return order[alive]


Levels = NDArray[np.uint8]
Scores = NDArray[np.float32]


def passes_score(iou: Scores, level: Levels, config: GridConfig) -> NDArray[np.bool_]:
    """Step 1: predicted IoU plus the level's bonus is above the threshold (strictly)."""
    if config.pred_iou_thresh <= 0:
        return np.ones(len(iou), np.bool_)
    return iou + _offset(config.score_thresh_offset, level) > np.float32(config.pred_iou_thresh)


def sure_whole(iou: Scores, level: Levels, config: GridConfig) -> NDArray[np.bool_]:
    """Whole masks whose predicted IoU is above the threshold without the level's bonus."""
    sure: NDArray[np.bool_] = (level == WHOLE) & (iou > np.float32(config.pred_iou_thresh))
    return sure


def stability_score(high: Ints, low: Ints) -> Scores:
    """(N,) pixels surely inside / pixels possibly inside; 0/0 is NaN."""
    score = np.full(len(low), np.nan, np.float32)
    return np.divide(high, low, out=score, where=low > 0, dtype=np.float32)


def passes_stability(score: Scores, level: Levels, config: GridConfig) -> NDArray[np.bool_]:
    """Step 2: stability plus the level's bias reaches the threshold; NaN never does."""
    if config.stability_score_thresh <= 0:
        return ~np.isnan(score)
    bias = _offset(config.stability_score_bias, level)
    return score + bias >= np.float32(config.stability_score_thresh)


def inside_crop(found: Boxed, crop: Crop, size: tuple[int, int]) -> Boxed:
    """Step 3: without the masks that the crop cuts off, and without any that has no pixel.

    Masks without pixels arise only where the stability test is switched off.
    """
    cut = near_crop_edge(found.box, crop, *size)
    return found.take(np.flatnonzero(~cut & found.filled))


def best_in_crop(found: Boxed, config: GridConfig) -> Boxed:
    """Step 4: box NMS within a crop; the bonus puts every whole mask first."""
    score = found.iou + _offset(config.score_nms_offset, found.level)
    return found.take(nms(found.box, score, config.box_nms_thresh))


def finish(
    parts: Sequence[Candidates], config: GridConfig, limit: int, survivors: Counter[str]
) -> Superpixels:
    """Steps 5 to 7, the cap of `limit` superpixels and the fallback.

    parts      candidates of each crop (at least one), in crop order
    survivors  counts of the steps before; the later ones are added
    """
    found = across_crops(parts, config)
    survivors["crop_nms"] = len(found)
    found = cleaned(found, config)
    survivors["clean"] = len(found)
    found, counts = filtered(found, config)
    survivors["filter"] = len(found)
    kept = largest(rl.areas(found.runs), limit)
    survivors["kept"] = len(kept)
    if len(kept):
        chosen = tuple(counts[i] for i in kept)
        return to_superpixels(found.take(kept), chosen, dict(survivors), False)
    found = full_image(found.runs.height, found.runs.width)
    return to_superpixels(found, rl.encode(found.runs), dict(survivors), True)


def across_crops(parts: Sequence[Candidates], config: GridConfig) -> Candidates:
    """Step 5: all crops' candidates, less duplicates between crops.

    Smaller crops win, whatever the level; ties keep list order. With one crop nothing is compared.
    """
    found = concat(parts)
    if len(parts) == 1:
        return found
    x0, y0, x1, y1 = found.crop.T
    score = np.float32(1) / ((x1 - x0) * (y1 - y0)).astype(np.float32)
    return found.take(nms(found.box, score, config.crop_nms_thresh))


def cleaned(found: Candidates, config: GridConfig) -> Candidates:
    """Step 6: without small holes and islands, then NMS that prefers masks left unchanged."""
    if config.min_mask_region_area <= 0 or not len(found):
        return found
    new, changed = clean(found.runs, config.min_mask_region_area)
    better = replace(found, runs=new, box=rl.boxes(new))
    threshold = max(config.box_nms_thresh, config.crop_nms_thresh)
    return better.take(nms(better.box, (~changed).astype(np.float32), threshold))


def filtered(found: Candidates, config: GridConfig) -> tuple[Candidates, tuple[bytes, ...]]:
    """Step 7: the FMA level filter, and no mask twice; the second value is the COCO counts."""
    counts = rl.encode(found.runs)
    height, width = found.runs.height, found.runs.width
    rles = [Rle(height, width, row) for row in counts]
    kept = keep_superpixels(rles, found.level, config.rock_sand_water_thresh)
    kept = [kept[i] for i in distinct([counts[i] for i in kept])]
    return found.take(np.array(kept, np.int64)), tuple(counts[i] for i in kept)


def _offset(triple: tuple[float, float, float], level: Levels) -> Scores:
    return np.array(triple, np.float32)[level]
