"""The benchmark's two paths agree, and its comparison sees differences. No timing is asserted."""

from dataclasses import replace

import numpy as np
import pytest

from svp.pipeline import runs as rl
from svp.pipeline.bench import superpixels as bench
from svp.pipeline.bench.blobs import decoder_outputs
from svp.pipeline.recipe import GridConfig

pytest.importorskip("cv2")


@pytest.mark.parametrize(("size", "seed"), [((96, 128), 0), ((130, 90), 1)])
def test_our_path_equals_the_package_and_the_published_filter(
    size: tuple[int, int], seed: int
) -> None:
    report = bench.run(prompts=64, size=size, seed=seed)
    figures = report.figures
    assert figures["same"], report.lines
    assert figures["survivors"]["decoded"] == 3 * 64
    # The comparison means something: every step had masks to drop or keep.
    assert figures["survivors"]["stability"] > figures["survivors"]["clean"] > len(report.lines)
    assert figures["superpixels"] >= 5
    assert figures["fast_difference"]["missing"] == figures["fast_difference"]["added"] == 0
    assert figures["fast_difference"]["pixels_flipped"] < 1e-4
    assert figures["decoder_flops"]["saved"] >= 0.15
    assert report.figures["ok"] == report.ok
    assert any("the same" in line for line in report.lines)


def test_the_report_fails_when_results_differ() -> None:
    figures = bench.run(prompts=16, size=(64, 64)).figures
    assert not bench._report({**figures, "same": False}).ok


def test_difference_counts_changed_missing_and_added() -> None:
    outputs = decoder_outputs(8, 96, 128)
    found, _ = bench._measure(outputs, (96, 128), GridConfig(points_per_side=8), "exact")
    same = bench.difference(found, found)
    assert same["changed"] == same["missing"] == same["added"] == same["pixels_flipped"] == 0
    point = found.point.copy()
    point[0] += 1
    moved = bench.difference(found, replace(found, point=point))
    assert moved["missing"] == moved["added"] == 1
    masks = np.stack([mask for mask in rl.to_masks(rl.from_labels(np.zeros((96, 128), int)))])
    full = rl.encode(rl.from_masks(masks))
    grown = bench.difference(found, replace(found, rles=(*full, *found.rles[1:])))
    assert grown["changed"] == 1
    expected = (96 * 128 - int(found.area[0])) / int(found.area.sum())
    assert grown["pixels_flipped"] == pytest.approx(expected)


def test_stored_outputs_are_deterministic() -> None:
    first, second = decoder_outputs(4, 48, 64, seed=3), decoder_outputs(4, 48, 64, seed=3)
    assert first.low.equal(second.low) and first.iou.equal(second.iou)
    assert not first.iou.equal(decoder_outputs(4, 48, 64, seed=4).iou)
