"""Weight references: the text of recipes is read once, kept as it was, and refused with a remedy."""

import json
from pathlib import Path

import pytest

from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig, parse_recipe
from svp.pipeline.weights.reference import SHIPPED, WeightsRef
from svp.train.options import TrainFlags, place_weights, resolve_train
from svp.train.recipe import ModelConfig

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    ["auto", "none", "given", "shipped", f"shipped:{HEX[:16]}", "random:0", "random:007",
     f"sha256:{HEX}", "svp", f"svp:{HEX}"],
)  # fmt: skip
def test_the_text_stays_as_it_was(text: str) -> None:
    found = WeightsRef.parse(text)
    assert str(found) == text and WeightsRef.parse(str(found)) == found
    assert (found.kind, found.value) == tuple((text + ":").split(":")[:2])
    assert found.on_disk == (text in (f"sha256:{HEX}", f"svp:{HEX}"))


@pytest.mark.parametrize(
    "text",
    ["", "random", "random:", "random:-1", "random:1e3", "random:١", f"random:{'9' * 19}", "sha256",
     "sha256:0", f"sha256:{HEX.upper()}", f"sha256:{HEX}\n", "shipped:", "given:x", "auto:",
     "file.pth", 7, None, ["shipped"]],
)  # fmt: skip
def test_what_is_none_is_told_what_may_be_written(text: object) -> None:
    with pytest.raises(ConfigError, match=r"^init=.*: write auto, none, given, .*random:<seed>"):
        WeightsRef.parse(text, where="init")


def test_an_option_names_a_reference_or_a_path() -> None:
    kinds = ("random", "shipped")
    assert WeightsRef.from_option(None, kinds, "--x") is None
    assert WeightsRef.from_option("random_init.pth", kinds, "--x") is None
    assert WeightsRef.from_option("none", kinds, "--x") is None
    assert WeightsRef.from_option("random", kinds, "--x") == WeightsRef("random", "0")
    assert WeightsRef.from_option("random:7", kinds, "--x") == WeightsRef("random", "7")
    assert WeightsRef.from_option("shipped", kinds, "--x") == SHIPPED
    with pytest.raises(ConfigError, match="^--x=random:x: write random:<seed> or shipped$"):
        WeightsRef.from_option("random:x", kinds, "--x")
    assert WeightsRef("random", "12").seed == 12


def test_recipes_keep_the_text_and_the_digest() -> None:
    """The digest is that of version 0.1, which kept plain text."""
    raw = {"superpixels": {"weights": f"sha256:{HEX}"}, "features": {"weights": "random:3"}}
    recipe = parse_recipe(raw, "recipe")
    assert recipe.superpixels.weights == WeightsRef("sha256", HEX)
    dumped = json.loads(recipe.canonical())
    assert dumped["superpixels"]["weights"] == f"sha256:{HEX}"
    assert dumped["features"]["weights"] == "random:3"
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert ModelConfig().model_dump()["init"] == "shipped"
    assert Recipe().digest() == DEFAULT_DIGEST


DEFAULT_DIGEST = "47a541a654451afe3101acdb28603d0e47b9766e46e169a0366748c7e16f5445"


@pytest.mark.parametrize(
    ("field", "text"),
    [("superpixels", "downloaded"), ("features", "none"), ("superpixels", "sha256:12")],
)
def test_a_wrong_text_in_a_recipe_is_told_with_its_field(field: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"r: {field}.weights={text}: write auto, shipped, rand"):
        parse_recipe({field: {"weights": text}}, "r")
    with pytest.raises(ConfigError, match=rf"{text}: write auto, shipped, random:<seed> or sha256"):
        resolve("tiny", None, Flags(), (f"{field}.weights={text}",), Path())


def test_a_wrong_text_in_a_training_recipe_is_told_with_its_field() -> None:
    with pytest.raises(ConfigError, match="model.init=auto: write none, given, shipped, sha256"):
        resolve_train("tiny", None, TrainFlags(), ("model.init=auto",))
    with pytest.raises(ConfigError, match="--sam-decoder=random:x: write random:<seed>, shipped"):
        place_weights({}, TrainFlags(sam_decoder="random:x"))


def test_a_file_that_is_called_random_is_a_file(tmp_path: Path) -> None:
    flags = Flags(sam_weights=str(tmp_path / "random_init.pth"), encoder_weights="random")
    with pytest.raises(Exception, match=r"random_init\.pth: no such weight file"):
        resolve("tiny", None, flags, (), tmp_path)


def test_configurations_are_equal_by_what_they_name() -> None:
    named = FeatureConfig.model_validate({"weights": "random:1"})
    assert named == FeatureConfig(weights=WeightsRef("random", "1"))
    assert hash(named) == hash(FeatureConfig(weights=WeightsRef("random", "1")))
    assert named.weights != SuperpixelConfig().weights
