"""Flags, recipe files and sizes become one recipe; every wrong field is named."""

import json
from pathlib import Path

import pytest

from svp.pipeline.errors import ConfigError, MissingError, PlanMismatchError, WeightsError
from svp.pipeline.io.yaml_files import load_yaml
from svp.pipeline.precompute.options import SIZES, Flags, resolve, shipped_recipe
from svp.pipeline.recipe import GRID_PRESETS, Recipe, parse_recipe
from svp.pipeline.weights.reference import SHIPPED


def make(size: str = "tiny", overrides: tuple[str, ...] = (), **flags: object) -> Recipe:
    given = Flags(**flags)  # type: ignore[arg-type]
    return resolve(size, None, given, overrides, Path("."))[0]


def test_tiny_needs_nothing_and_is_shipped() -> None:
    recipe = make()
    assert recipe.superpixels.weights == recipe.features.weights == SHIPPED
    assert recipe.superpixels.model == recipe.features.encoder == "tiny"


def test_scenes_of_world_2_have_tiny_models_of_their_own() -> None:
    assert shipped_recipe(None, {2}) == shipped_recipe("tiny", {2}) == "world2"
    assert [shipped_recipe("paper", {2}), shipped_recipe(None, {1, 2}), shipped_recipe(None, ())] == [
        "paper", "tiny", "tiny"]  # fmt: skip
    recipe = make("world2")
    assert recipe.superpixels.weights == recipe.features.weights == SHIPPED
    assert recipe.superpixels.model == recipe.features.encoder == "tiny-world2"
    assert recipe.superpixels.grid == make().superpixels.grid


def test_paper_names_the_missing_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingError, match=r"sam_vit_h_4b8939\.pth.*svp fetch vit_h"):
        make("paper")


def test_paper_is_the_papers_setting() -> None:
    recipe = make("paper", sam_weights="random", encoder_weights="random:3")
    assert recipe.superpixels.grid == GRID_PRESETS["svp"]
    assert recipe.superpixels.model == "vit_h"
    assert (recipe.features.encoder, recipe.features.size) == ("dinov2-large", 336)
    assert [str(w) for w in (recipe.superpixels.weights, recipe.features.weights)] == [
        "random:0", "random:3",
    ]  # fmt: skip


def test_preset_points_and_set_are_applied_in_order() -> None:
    fma = make(preset="fma")
    assert fma.superpixels.grid == GRID_PRESETS["fma"]
    dense = make(preset="fma", points_per_side=7)
    assert dense.superpixels.grid.crop_n_layers == 1
    assert dense.superpixels.grid.points_per_side == 7
    tuned = make(overrides=("superpixels.grid.box_nms_thresh=0.5", "batch=3"))
    assert (tuned.superpixels.grid.box_nms_thresh, tuned.batch) == (0.5, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("superpixels.mode=slow", "superpixels.mode=slow: Input should be 'exact' or 'fast'"),
        ("superpixels.grid.points=3", "superpixels.grid.points=3: no such field"),
        ("superpixels.dtype=bfloat16", "mode=exact needs dtype=float32, got bfloat16"),
        ("superpixels.grid.pred_iou_thresh=.nan", "pred_iou_thresh"),
        ("batch", "want a.b=value"),
        ("batch.size=3", "batch"),
        ("superpixels.source=mobile_sam", "source=mobile_sam does not go with model=tiny"),
    ],
)
def test_wrong_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=None) as caught:
        make(overrides=(override,))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['echo hi > pwned']",
        "a: &a [1]\nb: *a",
        "[" * 40 + "]" * 40,
        "- just\n- a list",
        "superpixels: {unknown: 1}",
        "\x00",
    ],
)
def test_hostile_recipe_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        resolve("tiny", path, Flags(), (), Path("."))
    assert not (tmp_path / "pwned").exists()


def test_recipe_file_limits(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_text("a: " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        load_yaml(big)
    with pytest.raises(MissingError, match=r"none\.yaml"):
        load_yaml(tmp_path / "none.yaml")


def test_a_pinned_digest_must_be_the_files(tmp_path: Path) -> None:
    weights = tmp_path / "sam.pth"
    weights.write_bytes(b"not a checkpoint, but hashed all the same")
    path = tmp_path / "pinned.yaml"
    path.write_text("superpixels: {model: vit_b, preset: svp, weights: 'sha256:" + "0" * 64 + "'}")
    with pytest.raises(PlanMismatchError, match=r"sha256:00.*--sam-weights"):
        resolve("tiny", path, Flags(sam_weights=str(weights), sam_model="vit_b"), (), Path())


@pytest.mark.parametrize(
    ("part", "flag"), [("superpixels", "--sam-weights"), ("features", "--encoder-weights")]
)
def test_a_pinned_digest_is_not_taken_for_the_shipped_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = {"superpixels": {}, "features": {}} | {part: {"weights": f"sha256:{'0' * 64}"}}
    (tmp_path / "pinned.yaml").write_text(json.dumps(raw))
    with pytest.raises(MissingError, match=f"weights of tiny not found.*{flag} PATH"):
        resolve(None, tmp_path / "pinned.yaml", Flags(), (), Path())


def test_digest_is_of_the_values_not_of_their_order() -> None:
    one = parse_recipe({"batch": 4, "superpixels": {"mode": "exact"}}, "one")
    two = parse_recipe({"superpixels": {"mode": "exact"}, "batch": 4}, "two")
    assert one.digest() == two.digest()
    assert one.digest() != parse_recipe({"batch": 5}, "three").digest()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_complete(size: str) -> None:
    recipe = make(size, sam_weights="random", encoder_weights="random")
    assert parse_recipe(recipe.model_dump(mode="json"), size) == recipe


def test_a_checkpoint_says_which_sam_it_is(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}, path)
    recipe, where = resolve("tiny", None, Flags(sam_weights=str(path)), (), Path())
    assert (recipe.superpixels.source, recipe.superpixels.model) == ("mobile_sam", "vit_t")
    assert where.sam == path
    save_file({"something.else": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="--sam-model"):
        resolve("tiny", None, Flags(sam_weights=str(path)), (), Path())
