"""What is too long for the model is named before the first step, in ids, and never ends a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from support.loader_world import make_source, vocabulary, write_cache
from svp.pipeline.datasets import Source
from svp.pipeline.errors import DataError
from svp.train.data.build_table import open_table
from svp.train.data.collate import CachedVisuals
from svp.train.data.dialogues import MAX_IDS, MAX_LENGTH, build_dialogue
from svp.train.data.expression_table import ExpressionTable
from svp.train.data.length_check import TokenBudget, longest
from svp.train.data.loader import Draws, Loader, RankSlice
from svp.train.data.prompts import Turn
from svp.train.evaluation.protocols import examples, plan, that_fit

THAI = "วงกลมสีแดงทางซ้าย"
LONG = (THAI * 40)[:500]  # 500 characters, 1,500 ids: scripts that are written as bytes
MIDDLE = (THAI * 40)[:300]  # 900 ids: fits alone, not twice


def with_texts(source: Source, texts: dict[int, str]) -> Source:
    rows = tuple(replace(row, sent=texts.get(row.sent_id, row.sent)) for row in source.sentences)
    return replace(source, sentences=rows)


def world(tmp_path: Path, texts: dict[int, str]) -> tuple[ExpressionTable, CachedVisuals, Source]:
    cache = write_cache(tmp_path / "cache", range(1, 8))
    source = with_texts(make_source("aa", range(1, 8)), texts)
    table = open_table(tmp_path / "t", [source], [cache], training=True)
    return table, CachedVisuals([cache], {"masks"}), source


def loader(table: ExpressionTable, visuals: CachedVisuals, budget: TokenBudget) -> Loader:
    draws = Draws(seed=0, global_batch=7)
    return Loader(table, visuals, vocabulary(), draws, RankSlice(micro_batch=7), budget=budget)


def drawn(made: Loader, steps: int = 12) -> set[int]:
    stream = made.steps(made.start())
    found = {
        s for _ in range(steps) for b in next(stream).batches for row in b.sent_ids for s in row
    }
    stream.close()
    return found


def test_the_limit_is_glamms() -> None:
    """1,536 positions; the text of an image of 576 tokens has 961 ids, the image's place with it."""
    assert (MAX_LENGTH, MAX_IDS) == (1536, 961)
    assert TokenBudget([], 576).least == MAX_IDS and TokenBudget([], 40).least == MAX_IDS + 536


def test_a_sentence_that_does_not_fit_is_named_and_never_drawn(tmp_path: Path) -> None:
    table, visuals, source = world(tmp_path, {200: LONG, 300: LONG})
    made = loader(table, visuals, TokenBudget(visuals.caches, None))
    ids = longest(vocabulary(), LONG.lower())
    (first, second) = made.too_long.lines
    assert first.startswith(f"image aa/2 sentence 200: {ids} ids") and ids > 1500
    assert "beside 3 visual tokens (1536 positions)" in first and "sentence 300" in second
    want = {row.sent_id for row in source.sentences} - {200, 300}
    assert drawn(made) == want


def test_an_image_without_a_sentence_that_fits_is_not_drawn(tmp_path: Path) -> None:
    texts = {row.sent_id: LONG for row in make_source("aa", [3]).sentences}
    table, visuals, source = world(tmp_path, texts)
    made = loader(table, visuals, TokenBudget(visuals.caches, None))
    assert made.too_long.found == len(texts) == 4
    assert drawn(made) == {row.sent_id for row in source.sentences} - texts.keys()
    assert {table.entry(i).image_id for i in made._entries} == {1, 2, 4, 5, 6, 7}


def test_of_sentences_that_fit_alone_a_dialogue_takes_what_fits(tmp_path: Path) -> None:
    texts = {row.sent_id: MIDDLE for row in make_source("aa", [3]).sentences}
    table, visuals, source = world(tmp_path, texts)
    made = loader(table, visuals, TokenBudget(visuals.caches, None))
    assert not made.too_long.found
    assert drawn(made, 24) == {row.sent_id for row in source.sentences}
    stream = made.steps(made.start())
    for _ in range(5):
        (batch,) = next(stream).batches
        assert [len(row) for row in batch.sent_ids] == [
            int((batch.seg_row == k).sum()) for k in range(7)
        ]
        assert int(batch.lengths.max()) <= 1536 - 1 + 1
    stream.close()


@pytest.mark.parametrize("fixed", [40, 576, 1369])
def test_visual_tokens_count(tmp_path: Path, fixed: int) -> None:
    """A text that fits beside 40 tokens need not beside 1,369, and the boundary is exact."""
    table, visuals, _ = world(tmp_path, {200: MIDDLE})
    need = longest(vocabulary(), MIDDLE.lower())
    made = loader(table, visuals, TokenBudget(visuals.caches, fixed))
    assert made.too_long.found == (need + fixed - 1 > 1536)
    assert not loader(
        table, visuals, TokenBudget(visuals.caches, fixed, need + fixed - 1)
    ).too_long.found
    assert loader(
        table, visuals, TokenBudget(visuals.caches, fixed, need + fixed - 2)
    ).too_long.found


def test_nothing_too_long_changes_no_draw(tmp_path: Path) -> None:
    table, visuals, _ = world(tmp_path, {})
    draws = Draws(seed=0, global_batch=7)
    plain = Loader(table, visuals, vocabulary(), draws, RankSlice(micro_batch=7))
    made = loader(table, visuals, TokenBudget(visuals.caches, None))
    for ours, theirs, _ in zip(
        made.steps(made.start()), plain.steps(plain.start()), range(4), strict=False
    ):
        assert [b.sent_ids for b in ours.batches] == [b.sent_ids for b in theirs.batches]


def test_an_evaluation_leaves_it_out_too(tmp_path: Path) -> None:
    _, visuals, source = world(tmp_path, {200: LONG, 300: MIDDLE, 301: MIDDLE})
    budget = TokenBudget(visuals.caches, None)
    items, bad = that_fit(examples(source, visuals.caches), vocabulary(), budget)
    assert [line.split(":")[0] for line in bad.lines] == ["image aa/2 sentence 200"]
    said = {e.sent_id for item in items for e in item.expressions}
    assert said == {row.sent_id for row in source.sentences} - {200}

    def fits(item, turns) -> bool:  # type: ignore[no-untyped-def]
        return len(build_dialogue(vocabulary(), turns, limit=1 << 30).ids) <= budget.of(item.entry)

    for unit in plan(items, "glamm", repeats=8, fits=fits):
        assert fits(unit.example, unit.turns) and len(unit.asked) == len(unit.turns) >= 1
    every = with_texts(source, {row.sent_id: LONG for row in source.sentences})
    with pytest.raises(DataError, match="image aa/1 sentence 100"):
        that_fit(examples(every, visuals.caches), vocabulary(), budget)


def test_a_byte_is_at_most_one_id() -> None:
    """What the quick look before the tokenizer relies on."""
    words = vocabulary()
    base = longest(words, "")
    for text in ("the disc", THAI, "ﷺ" * 20, "🧑‍🚀" * 9, "é" * 50, "1234567890" * 9, "a  b   c"):
        assert longest(words, text) <= base + len(text.encode()) + 8
        whole = build_dialogue(words, [Turn(f"Please segment {text}.", "It is [SEG].")])
        assert len(whole.ids) <= longest(words, text)
