"""The tiny models are refused on data that is not generated, unless somebody says they may."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute.toy_guard import require_real_models, toy_models
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig
from svp.pipeline.weights.reference import NONE, WeightsRef

REAL = Recipe(
    superpixels=SuperpixelConfig(model="vit_b", weights="random:0"),
    features=FeatureConfig(encoder="dinov2-small", weights="random:0", size=336),
)


def test_which_models_are_toys() -> None:
    assert toy_models(Recipe(), WeightsRef("shipped", "12")) == [
        "the tiny SAM", "the tiny encoder", "the tiny language model"]  # fmt: skip
    assert toy_models(REAL, WeightsRef("sha256", "12")) == toy_models(None, NONE) == []
    slic = Recipe(superpixels=SuperpixelConfig(source="slic"), features=REAL.features)
    assert toy_models(slic) == [], "no SAM is read"
    assert toy_models(slic.model_copy(update={"store_sam_embeddings": True})) == ["the tiny SAM"]


def test_they_are_refused_with_the_way_out() -> None:
    tiny = Recipe()
    for generated, size, recipe in ((True, None, tiny), (False, "tiny", tiny), (False, None, REAL)):
        require_real_models("photos", generated=generated, size=size, precompute=recipe)
    for size in (None, "small"):
        with pytest.raises(ConfigError, match=r"photos: .*--size small.*--size tiny") as error:
            require_real_models("photos", generated=False, size=size, precompute=tiny)
        assert "--sam-weights FILE and --encoder NAME" in str(error.value)
    with pytest.raises(ConfigError, match="the tiny language model knows nothing else: take this"):
        require_real_models("p", generated=False, size=None, language_model=WeightsRef("shipped", "1"),
                            instead="this")  # fmt: skip


def test_precompute_asks_for_it_by_flag_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SVP_SIZE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photos/a.png")
    words = ["precompute", "--dataset", "photos", "--out", "c", "--workers", "0", "--quiet",
             "--points-per-side", "2"]  # fmt: skip
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and "svp: photos: not generated scenes" in refused.output
    assert not (tmp_path / "c").exists()
    assert CliRunner().invoke(main, [*words, "--dry-run"]).exit_code == 2
    (tmp_path / "own.jsonl").write_text(
        '{"image": "photos/a.png", "expression": "red", "mask": [[1, 1, 30, 1, 30, 20]]}\n'
    )
    words_own = [*words[:2], "own.jsonl", "--split", "train", *words[3:]]
    assert "svp: own.jsonl: not generated" in CliRunner().invoke(main, words_own).output
    made = CliRunner().invoke(main, words, env={"SVP_SIZE": "tiny"})
    assert made.exit_code == 0, made.output
    assert "nothing to train on, so this is --for look" in made.output
    assert CliRunner().invoke(main, [*words, "--size", "tiny"]).exit_code == 0


def test_generated_scenes_need_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVP_SIZE", raising=False)
    write_scenes(tmp_path / "scenes", images=10, seed=0)
    words = ["precompute", "--dataset", str(tmp_path / "scenes"), "--split", "val", "--workers",
             "0", "--out", str(tmp_path / "c"), "--quiet", "--points-per-side", "2"]  # fmt: skip
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    assert (
        "the cache will hold superpixels, tiny features and the SAM image embedding" in made.output
    )
