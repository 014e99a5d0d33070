"""Recipes: shipped ones are the paper's, digests are of what decides the result, YAML is data."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from svp.model.language.adapters import LINEARS
from svp.pipeline.errors import ConfigError, MissingError, PlanMismatchError
from svp.pipeline.io.yaml_files import Override, shipped_yaml
from svp.train.options import TrainFlags, resolve_train
from svp.train.recipe import PARTS, ModelConfig, parse_train_recipe

SIZES = ("tiny", "small", "paper", "custom", "align", "align-world2", "world2")


@pytest.mark.parametrize("size", SIZES)
def test_every_shipped_recipe_is_complete(size: str) -> None:
    recipe, _ = resolve_train(size, None, TrainFlags(), (), weights=False)
    assert recipe.name == size
    again = parse_train_recipe(recipe.model_dump(mode="json"), size)
    assert again == recipe and again.digest() == recipe.digest()


def test_paper_is_the_papers_setting() -> None:
    paper, _ = resolve_train("paper", None, TrainFlags(), (), weights=False)
    one, two = paper.stages
    assert (one.steps, two.steps, paper.steps, paper.global_batch) == (3500, 1750, 5250, 160)
    assert (one.add_sspe, one.lora, two.add_sspe, two.lora) == (False, False, True, True)
    for stage in paper.stages:
        assert (stage.lr, stage.betas, stage.weight_decay) == (3e-4, (0.9, 0.95), 0)
        assert (stage.warmup, stage.clip, stage.trains) == (100, 1.0, PARTS)
    lora = paper.model.lora
    assert (lora.r, lora.alpha, lora.dropout, lora.targets) == (32, 16, 0.05, LINEARS)
    assert (paper.loss.ce, paper.loss.bce, paper.loss.dice) == (1.0, 2.0, 0.5)
    assert (paper.model.mask_state, paper.data.sentences_per_image) == ("predicting", 3)


def test_alignment_sees_patches_alone_and_trains_no_mask() -> None:
    for name in ("align", "align-world2"):
        recipe, _ = resolve_train(name, None, TrainFlags(), (), weights=False)
        assert recipe.data.task == "caption" and recipe.model.projector.name == "mlp"
        (stage,) = recipe.stages
        assert not {"to_prompt", "mask_decoder"} & set(stage.trains)


def test_the_digest_ignores_how_a_run_is_carried_out() -> None:
    def digest(*overrides: str) -> str:
        return resolve_train("paper", None, TrainFlags(), overrides, weights=False)[0].digest()

    assert digest("run.micro_batch=8", "run.keep=9", "name=mine") == digest()
    assert digest("seed=1") != digest() != digest("stages.1.lr=1.0e-4")
    # The usual order is in no digest: recipes of before have the digests they had.
    assert digest("data.order=global") == digest() != digest("data.order=window:64")


def test_stage_of_a_step() -> None:
    paper, _ = resolve_train("paper", None, TrainFlags(), (), weights=False)
    assert [paper.stage_at(step) for step in (0, 3499, 3500, 5249)] == [
        (0, 0), (0, 3499), (1, 0), (1, 1749)]  # fmt: skip
    with pytest.raises(ValueError, match="past the end"):
        paper.stage_at(5250)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.warmup=3500", "warmup=3500 must be less than steps=3500"),
        ("stages.0.trains=[everything]", "stages.0.trains.0=everything"),
        ("stages.2.lr=1", "want a number from 0 to 1"),
        ("stages.one.lr=1", "want a number from 0 to 1"),
        ("stages.0.lr=.nan", "stages.0.lr"),
        ("model.lm=/a/path", "model.lm=/a/path"),
        ("optimizer=sgd", "optimizer=sgd"),
        ("globalbatch=8", "globalbatch=8: no such field: did you mean global_batch?"),
        ("name=../x", "name=../x"),
    ],
)
def test_wrong_fields_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_train("paper", None, TrainFlags(), (override,), weights=False)
    assert message in str(caught.value)


def test_weights_that_must_be_given_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"model\.init=given: give its path with --init"):
        resolve_train("paper", None, TrainFlags(), ())
    with pytest.raises(MissingError, match=r"--init .*nothing: does not exist"):
        resolve_train("paper", None, TrainFlags(init=str(tmp_path / "nothing")), ())
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(b"hashed, not read")
    recipe, places = resolve_train("paper", None, TrainFlags(init=str(weights)), ())
    assert recipe.model.init.kind == "sha256" and places.init == weights
    assert str(tmp_path) not in recipe.canonical()
    pinned = "model.init=sha256:" + "0" * 64
    with pytest.raises(PlanMismatchError, match="recipe asks for sha256:000"):
        resolve_train("paper", None, TrainFlags(init=str(weights)), (pinned,))


def test_values_may_be_set_inside_lists() -> None:
    raw = shipped_yaml("train", "paper")
    Override.parse("stages.1.steps=9").apply(raw)
    assert [stage["steps"] for stage in raw["stages"]] == [3500, 9]
    with pytest.raises(
        ConfigError,
        match="allowed are align, align-world2, custom, paper, small, smollm2, tiny, world2",
    ):
        shipped_yaml("train", "huge")


def test_the_order_is_a_flag_and_a_recipe_field() -> None:
    def order(flag: str | None, *overrides: str) -> str:
        flags = TrainFlags(order=flag)
        return resolve_train("paper", None, flags, overrides, weights=False)[0].data.order

    assert order(None) == "global" and order("window:64") == "window:64"
    assert order(None, "data.order=window:8") == "window:8"
    recipe = resolve_train("paper", None, TrainFlags(), (), weights=False)[0]
    assert "order" not in json.loads(recipe.canonical())["data"]
    for odd in ("window:0", "window:-1", "window:", "window:x", "window:\uff13", "global\n"):
        with pytest.raises(ConfigError, match=r"data\.order=.*: it is global or window:N, N >= 1"):
            order(odd)


@pytest.mark.parametrize(
    ("part", "value", "forms"),
    [
        ("init", "random:0", "none, given, shipped, sha256"),
        ("lm", "svp:" + 64 * "0", "none, given, shipped, random"),
        ("sam_decoder", "svp:" + 64 * "0", "none, given, shipped, random"),
    ],
)
def test_a_part_starts_from_what_it_can_start_from(part: str, value: str, forms: str) -> None:
    with pytest.raises(ValidationError, match=f"{part}\n.*write {forms}"):
        ModelConfig.model_validate(
            {"init": "none", "lm": "random:0", "sam_decoder": "random:0"} | {part: value}
        )
