"""Greedy box suppression, equal to torchvision's on a CPU, with ties kept in list order.

torchvision re-sorts with an unstable sort above 4000 / 4 boxes (`batched_nms`, "vanilla" branch)
and scores tie often here, so results would depend on the batch size. This one never does.
"""

import numpy as np
from numpy.typing import NDArray


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
