"""The benchmark's two paths agree, and its comparison sees differences. No timing is asserted."""

from dataclasses import replace

import numpy as np
import pytest

from svp.pipeline.bench import superpixels as bench
from svp.pipeline.bench.prompt_modes import difference
from svp.pipeline.bench.synthetic_masks import decoder_outputs
from svp.pipeline.errors import ConfigError
from svp.pipeline.masks import runs as rl
from svp.pipeline.recipe import GridConfig

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def report() -> bench.Report:
    return bench.run(prompts=100, size=(90, 130), low=128, scenes=2)


def test_our_path_equals_the_package_and_the_published_filter(report: bench.Report) -> None:
    figures = report.figures
    assert figures["same"], report.lines()
    # The comparison means something: every step had masks to drop and to keep.
    steps = [figures["survivors"][name] for name in ("decoded", "score", "box_nms", "filter")]
    assert steps[0] == 300
    assert steps == sorted(set(steps), reverse=True) and steps[-1] >= 5
    assert figures["fast_difference"]["missing"] == figures["fast_difference"]["added"] == 0
    assert figures["fast_difference"]["pixels_flipped"] < 1e-4
    assert figures["decoder_flops"]["saved"] >= 0.15
    assert figures["models"]["fast float32"]["superpixels"] >= 2
    assert any("the same" in line for line in report.lines())


def test_a_report_whose_results_differ_is_not_ok(report: bench.Report) -> None:
    assert not bench._report({**report.figures, "same": False}).ok


def test_difference_counts_changed_missing_and_added() -> None:
    outputs = decoder_outputs(8, 96, 128, low=128)
    found, _ = bench._measure(outputs, (96, 128), GridConfig(points_per_side=8), "exact")
    same = difference([found], [found])
    assert same["changed"] == same["missing"] == same["added"] == same["pixels_flipped"] == 0
    point = found.point.copy()
    point[0] += 1
    moved = difference([found], [replace(found, point=point)])
    assert moved["missing"] == moved["added"] == 1
    full = rl.encode(rl.from_masks(np.ones((1, 96, 128), np.bool_)))
    other = replace(found, rles=(*full, *found.rles[1:]))
    grown = difference([found, found], [other, found])
    assert grown["images"] == 1
    assert grown["changed"] == 1
    expected = (96 * 128 - int(found.area[0])) / (2 * int(found.area.sum()))
    assert grown["pixels_flipped"] == pytest.approx(expected)


def test_prompts_must_be_a_square() -> None:
    with pytest.raises(ConfigError, match="prompts=1000"):
        bench.run(prompts=1000)


def test_stored_outputs_are_deterministic() -> None:
    first, second = (
        decoder_outputs(4, 48, 64, seed=3, low=64),
        decoder_outputs(4, 48, 64, seed=3, low=64),
    )
    assert first.low.equal(second.low) and first.iou.equal(second.iou)
    assert not first.iou.equal(decoder_outputs(4, 48, 64, seed=4, low=64).iou)
