"""Two encoders in one cache: the second one's last layer among `layers`, and a model that reads it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.encoders import build_encoder
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


def test_two_shapes_are_refused_before_anything_is_read() -> None:
    flags = Flags(encoder="tiny+clip-tiny", encoder_weights="random", sam_weights="random")
    recipe, _ = resolve("tiny", None, flags, (), Path())
    with pytest.raises(
        ConfigError, match=r"features\.second: tiny gives 16x16 patches of 96, clip-tiny"
    ):
        sized_plan(recipe)
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
