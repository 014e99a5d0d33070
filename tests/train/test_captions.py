"""data.task: caption: texts are answers, no mask is read, and nothing of other recipes changes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import loader_world
from svp.cli import main
from svp.model.batch import IGNORE
from svp.pipeline.errors import ConfigError
from svp.train.data.build_table import open_table
from svp.train.data.collate import CachedVisuals
from svp.train.data.expression_table import NOTHING
from svp.train.data.length_check import TokenBudget, longest
from svp.train.data.loader import Draws, Loader, RankSlice
from svp.train.data.prompts import DESCRIBE, choose_captions
from svp.train.recipe import DataConfig, StageConfig, TrainRecipe


def test_the_text_is_the_answer() -> None:
    turns = choose_captions(["A red disc", "a blue bar."], 3)
    assert [turn.answer for turn in turns] == ["a red disc.", "a blue bar."]
    assert {turn.question for turn in choose_captions(["a"] * 40, 3)} == set(DESCRIBE)


def test_a_batch_of_captions_has_text_to_learn_and_no_mask(tmp_path: Path) -> None:
    cache = loader_world.write_cache(tmp_path / "cache", range(1, 9))
    source = loader_world.make_source("aa", range(1, 9), empty=[3, 4, 8])
    table = open_table(tmp_path / "t", [source], [cache], training=True, captions=True)
    other = open_table(tmp_path / "t", [source], [cache], training=True, rejection=True)
    assert table.digest != other.digest
    said = [one for i in range(len(table)) for one in table.sentences(i)]
    assert len(said) == len(source.sentences), "those with an empty mask too"
    assert {one.target for one in said} == {NOTHING}
    vocab = loader_world.vocabulary()
    visuals = CachedVisuals([cache], {"masks"})
    loader = Loader(
        table, visuals, vocab, Draws(seed=1, global_batch=4, captions=True),
        RankSlice(micro_batch=4), budget=TokenBudget([cache], None),
    )  # fmt: skip
    batch = next(loader.steps(loader.start())).batches[0]
    assert len(batch.seg_row) == 0 and not batch.layout.masks.images
    for row, ids in enumerate(batch.labels):
        text = vocab.decode([int(i) for i in ids if i not in (IGNORE, vocab.eos)])
        assert text.startswith("red disc") and "number" in text, (row, text)


def test_a_caption_is_as_long_as_its_own_dialogue() -> None:
    vocab = loader_world.vocabulary()
    assert longest(vocab, "red disc " * 30, captions=True) > longest(vocab, "red", captions=True)


def test_the_usual_task_is_in_no_digest() -> None:
    stage = StageConfig(name="a", steps=10, warmup=1)
    plain = TrainRecipe(stages=(stage,))
    assert "task" not in plain.canonical()
    caption = plain.model_copy(update={"data": DataConfig(task="caption")})
    assert '"task":"caption"' in caption.canonical()


def test_captions_are_written_for_world_2_alone(tmp_path: Path) -> None:
    from svp.pipeline.datasets import open_dataset
    from svp.pipeline.datasets.scenes import write_scenes

    with pytest.raises(ConfigError, match="no captions"):
        write_scenes(tmp_path / "one", images=2, seed=0, captions=True)
    out = write_scenes(tmp_path / "two", images=2, seed=0, world=2, captions=True,
                       splits={"train": 2})  # fmt: skip
    source = open_dataset(str(out / "captions.jsonl"), split="train", allow_empty=True)
    assert len(source.images) == 2
    assert any(s.sent.startswith("from left to right") for s in source.sentences)
    assert source.worlds == {2}
    assert write_scenes(out, images=2, seed=0, world=2, captions=True, splits={"train": 2}) == out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_captions_to_svp_from_random_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented commands with a few steps: nothing of the start knows a superpixel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SVP_SIZE", raising=False)
    recipes = Path(__file__).parents[2] / "workflows" / "train"

    def svp(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.output

    svp("data", "synth", "data/world2", "--world", "2", "--images", "20", "--captions")
    svp("precompute", "--dataset", "data/world2", "--split", "train", "--points-per-side", "8",
        "--workers", "0", "--quiet")  # fmt: skip
    cache = ("--from-cache", "caches/world2-train", "--device", "cpu", "--set", "global_batch=2",
             "--set", "run.micro_batch=2")  # fmt: skip
    svp("train", "--recipe", str(recipes / "align-world2.yaml"), *cache, "--steps", "3",
        "--dataset", "data/world2/captions.jsonl", "--runs", "runs/align")  # fmt: skip
    said = [json.loads(line) for line in next(Path("runs/align").glob("*/metrics.jsonl")).open()]
    steps = [line for line in said if "ce" in line]
    assert all(line["masks"] == 0 and line["tokens"] > 50 for line in steps)
    svp("export", "exports/aligned", "--runs", "runs/align")
    out = svp("train", "--recipe", str(recipes / "world2.yaml"), *cache, "--steps", "2",
              "--init", "exports/aligned", "--runs", "runs/svp")  # fmt: skip
    assert "trained to step 2" in out
