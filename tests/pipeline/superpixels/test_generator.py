"""A recipe in, a source of superpixels out; and what the modes of the shipped SAM have in common."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.bench.prompt_modes import difference
from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.masks import rle
from svp.pipeline.recipe import GridConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.superpixels.generator import build_generator
from svp.pipeline.superpixels.point_grid import GridPrompter
from svp.pipeline.weights.reference import WeightsRef

PURE = "masks.runs superpixels.candidates superpixels.cleanup superpixels.crops superpixels.fma"
IMAGES = [make_scene(9000, index, "testA").image for index in range(2)]
# Low thresholds: these tests are about the machinery, not about how good the weights are.
GRID = GridConfig(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.3)
CONFIG = SuperpixelConfig(preset="custom", grid=GRID)


def test_the_selection_needs_no_torch() -> None:
    names = ", ".join(f"svp.pipeline.{name}" for name in (*PURE.split(), "superpixels.selection"))
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sam_source_equals_its_prompter_and_hands_on_the_embedding() -> None:
    source = build_generator(CONFIG, LocalPaths(images=Path()), "cpu")
    found, embeddings = source.generate_batch(IMAGES, embeddings=True)
    backend = build_backend(CONFIG, LocalPaths(images=Path()), "cpu")
    for image, one in zip(IMAGES, found, strict=True):
        alone = GridPrompter(backend, config=CONFIG.grid).generate(image)
        assert one.rles == alone.rles and len(one) > 2
        assert difference([one], [alone])["changed"] == 0
    assert embeddings is not None
    expected = backend.embed(IMAGES).numpy().astype(np.float16)
    np.testing.assert_array_equal(np.stack(embeddings), expected)
    assert source.generate_batch(IMAGES)[1] is None


@pytest.mark.parametrize("preset", ["custom", "windows"])
@pytest.mark.parametrize("size", [(1, 600), (600, 1), (2, 300)])
def test_no_mask_comes_twice(preset: str, size: tuple[int, int]) -> None:
    """Box NMS sees no area in a box one pixel high, so it would keep every copy of a mask."""
    grid = GRID.model_copy(update={"points_per_side": 8, "crop_n_layers": int(preset == "windows")})
    config = SuperpixelConfig(preset=preset, grid=grid)  # type: ignore[arg-type]
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    image = np.broadcast_to(ramp.reshape(-1 if size[1] < size[0] else 1, max(size))[..., None]
                            if size[0] <= size[1] else ramp[:, None, None], (*size, 3))  # fmt: skip
    (found,), _ = build_generator(config, LocalPaths(images=Path()), "cpu").generate_batch(
        [image.copy()]
    )
    assert len(set(found.rles)) == len(found.rles) < 40


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fast_mode_finds_nearly_the_same(dtype: str) -> None:
    fast = SuperpixelConfig.model_validate({**CONFIG.model_dump(), "mode": "fast", "dtype": dtype})
    found, expected = (
        build_generator(config, LocalPaths(images=Path()), "cpu").generate_batch(IMAGES)[0]
        for config in (fast, CONFIG)
    )
    for ours, theirs in zip(found, expected, strict=True):
        union = [sum(rle.decode(m).astype(int) for m in one.masks()) > 0 for one in (ours, theirs)]
        assert (union[0] != union[1]).mean() < 0.05
    change = difference(expected, found)
    assert change["missing"] <= 0.3 * change["superpixels"]


def test_random_weights_run_and_fall_back() -> None:
    config = CONFIG.model_copy(update={"weights": WeightsRef("random", "0")})
    found, _ = build_generator(config, LocalPaths(images=Path()), "cpu").generate_batch(IMAGES[:1])
    assert found[0].survivors["decoded"] == 3 * 16
    assert found[0].fallback == (found[0].survivors["kept"] == 0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("mode", "dtype"), [("exact", "float32"), ("fast", "float32"), ("fast", "bfloat16")]
)
def test_a_gpu_finds_nearly_the_same_and_twice_the_same(mode: str, dtype: str) -> None:
    changes = {"mode": mode, "dtype": dtype}
    config = SuperpixelConfig.model_validate({**CONFIG.model_dump(), **changes})
    here = LocalPaths(images=Path())
    expected = build_generator(CONFIG, here, "cpu").generate_batch(IMAGES)[0]
    source = build_generator(config, here, "cuda")
    found, again = (source.generate_batch(IMAGES)[0] for _ in range(2))
    change = difference(expected, found)
    allowed = 0.05 if mode == "exact" else 0.3
    assert change["missing"] <= allowed * change["superpixels"], change
    assert change["pixels_flipped"] < 0.01, change
    assert [one.rles for one in found] == [one.rles for one in again]
