"""Two encoders in one cache: the second one's last layer among `layers`, and a model that reads it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support.hub_encoders import narrow
from svp.cli import main
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.encoders import build_encoder
from svp.pipeline.encoders.pair import resampled
from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute.cost_model import tflop
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.recipe import FeatureConfig, Recipe, SecondEncoder
from svp.pipeline.records import LocalPaths
from svp.train.recipe import VisionConfig

BOTH = "features.second={encoder: tiny, weights: 'random:1'}"


def test_recipes_without_a_second_encoder_keep_their_digest() -> None:
    """Digests of the version before the field existed; caches and runs name them."""
    assert Recipe().digest() == "47a541a654451afe3101acdb28603d0e47b9766e46e169a0366748c7e16f5445"
    assert (
        "second" not in FeatureConfig().model_dump() and "second" not in VisionConfig().model_dump()
    )
    two = FeatureConfig(second=SecondEncoder(encoder="tiny", weights="random:1"))
    assert Recipe(features=two).digest() != Recipe().digest()
    assert FeatureConfig.model_validate(two.model_dump()) == two


def test_the_second_ones_last_layer_follows_the_layers() -> None:
    config = FeatureConfig(
        layers=(6,), second=SecondEncoder(encoder="tiny", weights="random:1"), cls=True
    )
    photos = [np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)] * 2
    here = LocalPaths(images=Path())
    found = build_encoder(config, here, "cpu").encode(photos)
    first = build_encoder(FeatureConfig(layers=(6,)), here, "cpu").encode(photos)
    second = build_encoder(FeatureConfig(weights="random:1"), here, "cpu").encode(photos)
    assert found.layers is not None and first.layers is not None
    np.testing.assert_array_equal(found.patches, first.patches)
    np.testing.assert_array_equal(found.layers[:, 0], first.layers[:, 0])
    np.testing.assert_array_equal(found.layers[:, 1], second.patches)
    assert found.stored(0).layers is not None and found.cls is not None
    assert build_encoder(config, here, "cpu").encode([]).layers.shape[:2] == (0, 2)  # type: ignore[union-attr]


def test_another_grid_and_width_lie_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second encoder of 4x4 patches of 32 beside one of 16x16 patches of 96."""
    narrow(monkeypatch, "dinov3-small")
    second = {"encoder": "dinov3-small", "weights": "random:1", "size": 64}
    config = FeatureConfig(layers=(6,), second=SecondEncoder.model_validate(second))
    photos = [np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)] * 2
    here = LocalPaths(images=Path())
    found = build_encoder(config, here, "cpu").encode(photos)
    first = build_encoder(FeatureConfig(layers=(6,)), here, "cpu").encode(photos)
    alone = build_encoder(FeatureConfig.model_validate(second), here, "cpu").encode(photos).patches
    assert found.layers is not None and first.layers is not None
    assert found.layers.shape == (2, 1, 256, 96 + 32) and alone.shape == (2, 16, 32)
    np.testing.assert_array_equal(found.layers[:, 0, :, :96], first.layers[:, 0])
    beside = found.layers[0, 0, :, 96:].reshape(16, 16, 32)
    coarse = alone[0].reshape(4, 4, 32)
    # Cell y of 16 has its centre at (y + 0.5) / 4 - 0.5 of the 4: corners are the patch's own value.
    np.testing.assert_allclose(beside[[0, 0, 15, 15], [0, 15, 0, 15]],
                               coarse[[0, 0, 3, 3], [0, 3, 0, 3]], atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(beside[2, 0], 0.875 * coarse[0, 0] + 0.125 * coarse[1, 0], atol=1e-5)
    assert sized_plan(Recipe(features=config)).layers_shape == (1, 256, 128)
    empty = build_encoder(config, here, "cpu").encode([])
    assert empty.layers is not None and empty.layers.shape == (0, 1, 256, 128)


def test_a_finer_grid_is_averaged() -> None:
    fine = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    got = resampled(fine, (4, 4), (2, 2))[0, :, 0]
    square = fine.reshape(4, 4)
    weights = np.array([3, 3, 1, 0]) / 7  # a triangle of two patches' half-width, cut at the border
    columns = np.stack([weights, weights[::-1]])
    np.testing.assert_allclose(got, (columns @ square @ columns.T).ravel(), rtol=1e-5)
    assert resampled(fine, (4, 4), (4, 4)) is fine


def test_each_is_seen_at_its_own_usual_size() -> None:
    flags = Flags(encoder="dinov2-large+siglip2-large-384", encoder_weights="random",
                  sam_weights="random")  # fmt: skip
    recipe, _ = resolve("paper", None, flags, (), Path())
    second = recipe.features.second
    assert second is not None and (recipe.features.size, second.size) == (336, 384)
    assert sized_plan(recipe).layers_shape == (1, 576, 1024)
    assert tflop(sized_plan(recipe))["features"] == pytest.approx(0.386 + 0.381)
    with pytest.raises(ConfigError, match=r"siglip2-large-384: .*takes 384 only.*second\.size=384"):
        sized_plan(resolve("paper", None, flags, ("features.second.size=336",), Path())[0])
    with pytest.raises(ConfigError, match=r"--encoder tiny\+dino: allowed are"):
        resolve("tiny", None, Flags(encoder="tiny+dino"), (), Path())


def test_named_on_the_command_line_and_priced() -> None:
    flags = Flags(
        encoder="dinov2-large+clip-large-336", encoder_weights="random", sam_weights="random"
    )
    both, _ = resolve("paper", None, flags, ("features.layers=[24]",), Path())
    assert both.features.name == "dinov2-large+clip-large-336" and both.features.size == 336
    assert both.features.second == SecondEncoder(encoder="clip-large-336", weights="random:0")
    one = sized_plan(
        both.model_copy(update={"features": both.features.model_copy(update={"second": None})})
    )
    plan = sized_plan(both)
    assert (plan.blocks, one.blocks) == (2, 1)
    assert tflop(plan)["features"] == pytest.approx(0.386 + 0.382)
    assert tflop(one)["features"] == pytest.approx(0.386)


def test_a_model_trains_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), images=3, seed=0, splits={"train": 2, "val": 1})

    def svp(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        return done.output

    cut = ("precompute", "--dataset", "scenes", "--split", "train", "--workers", "0", "--device", "cpu",
           "--quiet")  # fmt: skip
    svp(*cut, "--set", BOTH, "--set", "features.layers=[6]", "--out", "both")
    svp(*cut, "--set", "features.layers=[5,6]", "--out", "one")
    reader = CacheReader(Path("both"))
    assert reader.layers(0).shape == (2, 256, 96)
    train = ("train", "--device", "cpu", "--set", "model.init=none", "--set", "model.lm=random:0",
             "--set", "model.sam_decoder=shipped", "--set", "model.warm_projector=false",
             "--set", "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
             "--set", "stages=[{name: one, steps: 1, warmup: 0}]", "--set", "global_batch=2",
             "--set", "run.micro_batch=2", "--set", "run.preview=0",
             "--set", "model.projector={name: fusion, options: {sources: 2}}")  # fmt: skip
    second = ("--set", "model.vision.second=tiny")
    svp(*train, *second, "--from-cache", "both")
    refused = svp(*train, *second, "--from-cache", "one", code=2)
    assert "wants tiny+tiny" in refused and "--encoder tiny+tiny" in refused
    refused = svp(*train, "--from-cache", "both", code=2)
    assert "model.vision.second=tiny" in refused


@pytest.mark.parametrize("thin", [False, True])
def test_a_model_trains_on_two_grids_and_widths(
    thin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, "siglip2-base-384")
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), images=3, seed=0, splits={"train": 2, "val": 1})

    def svp(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        return done.output

    said = svp(
        "precompute", "--dataset", "scenes", "--split", "train", "--workers", "0", "--device", "cpu",
        "--encoder", "tiny+siglip2-base-384", "--second-weights", "random:1", "--quiet",
        "--projector", "fusion", "--out", "both", *(["--thin"] if thin else []),
    )  # fmt: skip
    assert "second" not in said or "error" not in said
    reader = CacheReader(Path("both"))
    if thin:
        assert reader.plan.layer("pooled").arrays[0].row == (256, 96 + 96 + 32)
    else:
        assert reader.layers(0).shape == (1, 256, 96 + 32)
    train = ("train", "--device", "cpu", "--set", "model.init=none", "--set", "model.lm=random:0",
             "--set", "model.sam_decoder=shipped", "--set", "model.warm_projector=false",
             "--set", "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
             "--set", "stages=[{name: one, steps: 1, warmup: 0}]", "--set", "global_batch=2",
             "--set", "run.micro_batch=2", "--set", "run.preview=0",
             "--set", "model.vision.second=siglip2-base-384", "--from-cache", "both")  # fmt: skip
    svp_options = "svp: {ssa_variant: none}" if thin else "svp: {}"
    options = f"sources: 2, {svp_options}"
    refused = svp(
        *train, "--set", f"model.projector={{name: fusion, options: {{{options}}}}}", code=2
    )
    assert "reads maps of 192 channels together" in refused and "options.last_dim=32" in refused
    options += ", last_dim: 32"
    svp(*train, "--set", f"model.projector={{name: fusion, options: {{{options}}}}}")
