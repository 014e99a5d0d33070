"""[REJ], the answer that nothing is meant: words, tables, batches, losses, decisions, results."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from support import eval_world, loader_world
from support.micro_ris import SEG as MICRO_SEG
from support.micro_ris import micro_batch, micro_model
from svp.cli import main
from svp.model.inference.shared_prefix import reply_shared
from svp.model.language.words import copy_word
from svp.model.losses import Weights
from svp.model.ris import RisModel
from svp.model.trainable import require_trained_seg
from svp.pipeline.cache import CacheReader
from svp.pipeline.datasets import open_dataset
from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks.rle import decode
from svp.train.data.build_table import open_table
from svp.train.data.collate import CachedVisuals, Item, make_batch
from svp.train.data.dialogues import build_dialogue
from svp.train.data.expression_table import NOTHING, ExpressionTable
from svp.train.data.prompts import GLAMM, Turn, choose_turns, fixed_turn
from svp.train.data.tokenizer import Vocabulary, load_vocabulary
from svp.train.evaluation.evaluate import Settings, by_image, cut, evaluate, to_batch
from svp.train.evaluation.protocols import Example, plan
from svp.train.evaluation.results import Header, Results, Row, collect, read_results, write_results
from svp.train.evaluation.trained import Trained
from svp.train.recipe import ModelConfig, StageConfig, TrainRecipe
from svp.train.runs.eval_request import EvalRequest
from svp.train.runs.predict import PredictRequest

World = tuple[list[Example], CachedVisuals]
RECIPE = TrainRecipe(stages=(StageConfig(name="a", steps=2, warmup=0),))
TINY = Path(__file__).parents[2] / "workflows/tiny/lm"


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return load_vocabulary(TINY).with_rejection()


def test_the_token_is_one_more_and_all_others_stay(words: Vocabulary, tmp_path: Path) -> None:
    plain = load_vocabulary(TINY)
    assert plain.rej is None
    assert (words.rej, words.size) == (plain.size, plain.size + 1)
    turns = [fixed_turn("the red disc"), Turn("What is it?", "Sure, it is [SEG].")]
    assert build_dialogue(words, turns) == build_dialogue(plain, turns)
    assert words.with_rejection() is words
    with pytest.raises(DataError, match=r"\[REJ\]"):
        words.encode("the [REJ] disc")
    words.tokenizer.save_pretrained(tmp_path)  # as an export has it
    again = load_vocabulary(tmp_path)
    assert (again.rej, again.size, again.seg) == (words.rej, words.size, words.seg)


def test_a_rejection_stands_where_seg_would(words: Vocabulary) -> None:
    assert words.rej is not None
    turns = choose_turns(["red disc", "blue bar", "green post"], 3, GLAMM)
    mixed = [turns[0], turns[1].rejected(), turns[2]]
    usual, made = build_dialogue(words, turns), build_dialogue(words, mixed)
    place = usual.seg[1]
    assert made.seg == (usual.seg[0], usual.seg[2])
    assert made.ids[place] == made.labels[place] == words.rej
    assert made.ids[:place] + made.ids[place + 1 :] == usual.ids[:place] + usual.ids[place + 1 :]


def _table(root: Path, *, rejection: bool) -> tuple[ExpressionTable, CacheReader]:
    cache = loader_world.write_cache(root / "cache", range(1, 9))
    source = loader_world.make_source("aa", range(1, 9), empty=[3, 4, 8])
    table = open_table(root / "t", [source], [cache], training=True, rejection=rejection)
    return table, cache


def test_a_table_keeps_them_only_if_asked(tmp_path: Path) -> None:
    plain, _ = _table(tmp_path / "a", rejection=False)
    table, _ = _table(tmp_path / "b", rejection=True)
    empty = [
        (table.entry(i), one)
        for i in range(len(table))
        for one in table.sentences(i)
        if one.target == NOTHING
    ]
    # Object 0 of images 3, 4 and 8 has 2, 1 and 1 sentences (1 + i % 4, every second one).
    assert [one.sent_id for _, one in empty] == [300, 302, 400, 800]
    assert table.sentence_count == plain.sentence_count + 4
    assert any(note.startswith("4 sentences without a target") for note in table.notes)
    assert any("4 sentences left out" in note and "model.rejection" in note for note in plain.notes)
    out = np.full(empty[0][0].target_bytes, 7, np.uint8)
    table.target(empty[0][1], out)
    assert not out.any()


def test_batches_have_a_mask_for_each_target_alone(tmp_path: Path, words: Vocabulary) -> None:
    table, cache = _table(tmp_path, rejection=True)
    loader = loader_world.make_loader(table, cache, global_batch=8, micro=4)
    loader.vocab = words
    said = kept = 0
    for _, step in zip(range(4), loader.steps(loader.start()), strict=False):
        for batch in step.batches:
            rejected = int((batch.ids == words.rej).sum())
            assert len(batch.seg_row) == sum(len(ids) for ids in batch.sent_ids)
            assert [len(bits) for bits in batch.packed or ()] == [len(i) for i in batch.sent_ids]
            assert len(batch.layout.masks.targets()) == len(batch.seg_row)
            said, kept = said + rejected, kept + len(batch.seg_row)
    assert said > 3 and kept > 20


def test_a_batch_of_rejections_alone_has_a_loss_of_words(tmp_path: Path, words: Vocabulary) -> None:
    """Its mask head is called all the same, and gets no gradient."""
    table, cache = _table(tmp_path, rejection=True)
    entry = next(table.entry(i) for i in range(8) if table.entry(i).image_id == 4)
    visuals = CachedVisuals([cache], {"masks"})
    dialogue = build_dialogue(words, [fixed_turn("red disc").rejected()])
    batch = make_batch(table, visuals, [Item(entry, (), dialogue)], words.pad)
    assert batch.layout.masks.targets().shape[0] == len(batch.seg_row) == 0

    model, micro = micro_model(), micro_batch((1, 2))
    labels = torch.where(micro.labels == MICRO_SEG, 9, micro.labels)
    none = torch.empty(0, dtype=torch.int64)
    bare = replace(
        micro, ids=torch.where(micro.ids == MICRO_SEG, 9, micro.ids), labels=labels, seg_row=none,
        seg_col=none, packed=tuple(bits[:0] for bits in micro.packed or ()), sent_ids=((), ()),
    )  # fmt: skip
    losses = model(bare)
    assert (losses.masks, losses.bce.item(), losses.dice.item()) == (0, 0, 0)
    assert losses.tokens == int((labels != -100).sum()) and losses.ce.item() > 0
    losses.total(Weights()).backward()
    grads = [
        p.grad for part in (model.to_prompt, model.mask_head.decoder) for p in part.parameters()
    ]
    called = [grad for grad in grads if grad is not None]
    assert len(called) > 20 and all(not grad.any() for grad in called)

    # With others in one global batch, it adds its words and nothing else to the loss.
    whole = model(micro)
    counts = {"tokens": whole.tokens + losses.tokens, "masks": whole.masks}
    total = whole.total(Weights(), **counts) + losses.total(Weights(), **counts)
    ce = (whole.ce + losses.ce) / counts["tokens"]
    torch.testing.assert_close(total, ce + (2 * whole.bce + 0.5 * whole.dice) / whole.masks)


def test_the_new_row_starts_as_that_of_seg() -> None:
    lm = micro_model().lm
    before = {n: p.detach().clone() for n, p in lm.named_parameters()}
    rows, state = lm.config.vocab_size, torch.get_rng_state()
    copy_word(lm, MICRO_SEG, rows)
    assert torch.equal(state, torch.get_rng_state())
    for name, values in lm.named_parameters():
        if len(values) == rows + 1:
            assert torch.equal(values[rows], values[MICRO_SEG])
        assert torch.equal(values[: len(before[name])], before[name])
    model = micro_model()
    with pytest.raises(ConfigError, match=r"\[REJ\] row 30"):
        require_trained_seg(model, ["projector"], 30, fresh=True, token="[REJ]")


def _world_model(words: Vocabulary, world: World, state: str = "predicting") -> RisModel:
    """Some states make [REJ] more likely, others [SEG]."""
    model = eval_world.model()
    model.mask_state = state  # type: ignore[assignment]
    assert words.rej is not None
    copy_word(model.lm, words.seg, words.rej)
    once = cut(by_image(plan(world[0], "full")), 5)
    with torch.no_grad():
        batches = [to_batch(b, words, world[1], once=True).to("cpu", torch.float32) for b in once]
        states = torch.cat([reply_shared(model, batch).before for batch in batches])
        mean, across = states.mean(0), states[0] - states[-1]
        model.lm.lm_head.weight[words.rej] += 9 * (across - mean * (across @ mean) / (mean @ mean))
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield eval_world.world(tmp_path_factory.mktemp("world"), range(3, 9))


@pytest.mark.parametrize("state", ["predicting", "at_seg"])
def test_teacher_forcing_compares_the_two_tokens(
    world: World, words: Vocabulary, state: str
) -> None:
    """By `lm(...).logits` at the id before [SEG], whatever state the mask is made of."""
    model = _world_model(words, world, state)
    assert words.rej is not None
    wanted: dict[tuple[int, int], float] = {}
    units = plan(world[0], "full")
    for batch in cut(by_image(units), 5):
        once = to_batch(batch, words, world[1], once=True).to("cpu", torch.float32)
        with torch.no_grad():
            shared = model.rejection(reply_shared(model, once).before, words.seg, words.rej)
            for unit, chance in zip(batch, shared.tolist(), strict=True):
                one = to_batch([unit], words, world[1]).to("cpu", torch.float32)
                merged = model.merged(one)
                place = int(merged.index(one.seg_row, one.seg_col)) - 1
                logits = model.lm(inputs_embeds=merged.embeds).logits[0, place]
                want = float(logits[[words.seg, words.rej]].softmax(0)[1])
                assert chance == pytest.approx(want, abs=1e-5)
                wanted[unit.example.entry.image_id, unit.asked[0].sent_id] = want
    rows = evaluate(model, units, words, world[1], Settings(batch=4))
    assert {row.has_seg for row in rows} == {True, False}
    for row in rows:
        assert row.rejection == pytest.approx(wanted[row.image_id, row.sent_id], abs=1e-5)
        assert row.has_seg == (row.rejection <= 0.5)
        assert row.has_seg or not decode(row.mask).any()


def test_another_chance_may_decide(world: World, words: Vocabulary) -> None:
    model, units = _world_model(words, world), plan(world[0], "full")
    usual = evaluate(model, units, words, world[1], Settings())
    chances = sorted(row.rejection for row in usual if row.rejection is not None)
    above = chances[len(chances) // 4]
    rows = evaluate(model, units, words, world[1], Settings(reject_above=above))
    assert [row.rejection for row in rows] == [row.rejection for row in usual]
    assert all(row.has_seg == (row.rejection <= above) for row in rows if row.rejection is not None)
    assert {row.has_seg for row in rows} == {True, False}

    trained = Trained(model, words, RECIPE, {"a": "b"})
    told = trained.to_answer("cpu", reject_above=above)
    assert (told.reject_above, told.digests) == (above, {"a": "b", "reject_above": str(above)})
    assert trained.to_answer("cpu").digests == {"a": "b"}
    other = Trained(model, eval_world.vocabulary(), RECIPE, {})
    with pytest.raises(ConfigError, match=r"no answer \[REJ\].*model\.rejection=true"):
        other.to_answer("cpu", reject_above=0.7)
    with pytest.raises(ConfigError, match="reject_above=1.5: need a chance"):
        trained.to_answer("cpu", reject_above=1.5)
    for refused in (
        lambda: EvalRequest(generate=True, reject_above=0.7),
        lambda: PredictRequest(
            images=Path("a"), expressions=("b",), generate=True, reject_above=0.7
        ),
    ):
        with pytest.raises(ConfigError, match="leave out --generate"):
            refused()


def _header() -> Header:
    return Header(svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1,
                  order="area", splits=[], digests={}, libraries={})  # fmt: skip


def test_results_say_what_was_rejected(world: World, words: Vocabulary, tmp_path: Path) -> None:
    model = _world_model(words, world)
    rows = evaluate(model, plan(world[0], "full"), words, world[1], Settings())
    write_results(tmp_path / "r.jsonl", collect(_header(), rows))
    again = read_results(tmp_path / "r.jsonl")
    assert list(again.rows) == rows
    assert again.counts.rejected is not None
    assert again.counts.rejected.tolist() == [not row.has_seg for row in again.rows]
    plain = evaluate(eval_world.model(), plan(world[0], "full"), eval_world.vocabulary(), world[1],
                     Settings())  # fmt: skip
    assert Results(_header(), plain).counts.rejected is None
    assert all("rejection" not in row.model_dump() and row.rejection is None for row in plain)
    assert Row.model_validate(plain[0].model_dump()) == plain[0]


def test_generation_decides_by_what_is_said(world: World, words: Vocabulary) -> None:
    model = _world_model(words, world)
    head = torch.nn.Linear(16, words.size)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.zero_()[words.rej] = 1
    model.lm.lm_head = head
    units = plan(world[0], "full", generate=True)
    rows = evaluate(model, units, words, world[1], Settings())
    assert rows and all(not row.has_seg and row.rejection is None for row in rows)
    assert all(row.union == row.target for row in rows)


def test_recipes_without_it_keep_their_digest() -> None:
    stage = (StageConfig(name="a", steps=2, warmup=0),)
    plain = TrainRecipe(stages=stage)
    off = TrainRecipe(stages=stage, model=ModelConfig(rejection=False))
    on = TrainRecipe(stages=stage, model=ModelConfig(rejection=True))
    assert "rejection" not in plain.canonical() and plain.digest() == off.digest() != on.digest()
    assert TrainRecipe.model_validate(json.loads(on.canonical())).model.rejection
    texts = {
        text: TrainRecipe(stages=stage, model=ModelConfig(system_text=text)) for text in ("", " a ")
    }
    assert "system_text" not in plain.canonical()
    assert len({plain.digest(), *(recipe.digest() for recipe in texts.values())}) == 3
    again = [TrainRecipe.model_validate(json.loads(r.canonical())) for r in texts.values()]
    assert [recipe.model.system_text for recipe in again] == ["", "a"]


@pytest.mark.parametrize("world", [1, 2])
def test_scenes_with_expressions_of_nothing(tmp_path: Path, world: int) -> None:
    """They are true of no thing; all else is as without them."""
    made = {}
    for name, more in (("plain", []), ("with", ["--no-target"])):
        asked = ["data", "synth", "--out", str(tmp_path / name), "--images", "10",
                 "--world", str(world), *more]  # fmt: skip
        assert CliRunner().invoke(main, asked).exit_code == 0
        lines = (tmp_path / name / "scenes.jsonl").read_text().splitlines()
        made[name] = [json.loads(line) for line in lines]
    empty = [line for line in made["with"] if not line["mask"]]
    assert [line for line in made["with"] if line["mask"]] == made["plain"] and len(empty) > 9
    spoken = {(line["image"], line["expression"]) for line in made["plain"]}
    assert not spoken & {(line["image"], line["expression"]) for line in empty}
    source = open_dataset(str(tmp_path / "with" / "scenes.jsonl"), masks=True)
    assert len(source.sentences) == len(made["with"])
    again = CliRunner().invoke(
        main, ["data", "synth", "--out", str(tmp_path / "with"), "--images", "10",
              "--world", str(world)]
    )  # fmt: skip
    assert again.exit_code != 0 and "other scenes" in again.output
