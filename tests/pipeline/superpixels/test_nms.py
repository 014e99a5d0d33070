"""Greedy NMS against torchvision's CPU operator."""

import numpy as np
import pytest

from svp.pipeline.superpixels.selection import nms


@pytest.mark.parametrize("seed", range(60))
def test_equals_torchvision_ties_included(seed: int) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 300))
    corner = rng.integers(0, 40, (count, 2))
    boxes = np.concatenate((corner, corner + rng.integers(0, 30, (count, 2))), axis=1)
    scores = rng.integers(0, 4, count).astype(np.float32)  # few values: most scores tie
    threshold = float(rng.choice([0.3, 0.5, 0.7, 0.9]))
    expected = ops.nms(torch.tensor(boxes).float(), torch.tensor(scores), threshold)
    np.testing.assert_array_equal(nms(boxes, scores, threshold), expected.numpy())


def test_boxes_without_area_are_never_suppressed() -> None:
    line, point, box = [0, 0, 9, 0], [0, 0, 0, 0], [0, 0, 9, 9]
    boxes = np.array([box, line, line, point, point])
    assert nms(boxes, np.ones(5), 0.0).tolist() == [0, 1, 2, 3, 4]


def test_suppression_needs_more_than_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7]])  # IoU = fp32(0.7), just below 0.7
    assert nms(boxes, np.ones(2), 0.7).tolist() == [0, 1]
    half = np.array([[0, 0, 10, 10], [0, 0, 10, 5]])
    assert nms(half, np.ones(2), 0.5).tolist() == [0, 1]
    assert nms(half, np.ones(2), 0.4999).tolist() == [0]


def test_equal_scores_keep_list_order() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 2000 + [[20, 20, 30, 30]])
    assert nms(boxes, np.zeros(2001), 0.7).tolist() == [0, 2000]
