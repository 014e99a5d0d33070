"""Prompt text, ids, labels and positions: against GLaMM's text and frozen golden ids."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import svp
from svp.model.batch import IGNORE
from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.train.data.dialogues import Dialogue, build_dialogue, collate, segments
from svp.train.data.keyed_rng import Choices, key_of, permutation, splitmix, splitmix_array
from svp.train.data.prompts import (
    ANSWERS,
    GLAMM,
    SYSTEM,
    Turn,
    choose_turns,
    fixed_turn,
    phrase,
)
from svp.train.data.tokenizer import ADDED, IMAGE, Vocabulary, load_vocabulary

FIXTURES = Path(__file__).parents[2] / "fixtures"
FOLDERS = {
    "llama": FIXTURES / "tokenizer/llama",
    "tiny": Path(svp.__file__).parent / "workflows/tiny/lm",
}
TURNS = (
    Turn("Please segment man on left in this image.", "It is [SEG]."),
    Turn("What is the red cup in this image?", "[SEG]."),
    Turn("Can you segment the dog in this image", "Sure, [SEG]."),
)


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vocab(kind: str) -> Vocabulary:
    return load_vocabulary(FOLDERS[kind])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ids_are_the_golden_ones(kind: str, vocab: Vocabulary, count: int) -> None:
    golden = json.loads((FIXTURES / "tokenizer/golden.json").read_text())[kind][count - 1]
    made = build_dialogue(vocab, TURNS[:count])
    assert list(made.ids) == golden["ids"]
    assert list(made.seg) == golden["seg"] and made.slot == golden["slot"]


def test_text_is_glamms() -> None:
    cases = np.load(FIXTURES / "glamm/cases.npz", allow_pickle=False)
    turn = Turn(str(cases["prompt00_questions"][0]), str(cases["prompt00_answers"][0]))
    assert "".join(s.text for s in segments([turn])) == str(cases["prompt00_expected"][0])
    assert fixed_turn(" Man on LEFT ") == turn


def test_three_turns_continue_without_a_blank() -> None:
    text = "".join(s.text for s in segments(TURNS))
    assert text.count("<image>") == 1 and text.count("provides an overview") == 1
    assert "It is [SEG].</s>USER: What is the red cup" in text
    assert text.endswith("ASSISTANT: Sure, [SEG].</s>")


def test_labels_cover_answers_and_their_end(vocab: Vocabulary) -> None:
    made = build_dialogue(vocab, TURNS)
    supervised = [i for i, label in zip(made.ids, made.labels, strict=True) if label != IGNORE]
    expected: list[int] = []
    for before in ("It is", "", "Sure,"):
        expected += [*vocab.encode(before), vocab.seg, *vocab.encode("."), vocab.eos]
    assert supervised == expected and made.supervised == len(expected)
    assert all(label in (IGNORE, token) for token, label in zip(made.ids, made.labels, strict=True))
    assert [made.ids[i] for i in made.seg] == [vocab.seg] * 3
    assert made.ids[made.slot - 1 : made.slot + 2] == (vocab.im_start, IMAGE, vocab.im_end)


def test_special_tokens_restart_a_word_and_leave_no_lone_blank(vocab: Vocabulary) -> None:
    made = build_dialogue(vocab, TURNS[:1])
    tokens = vocab.tokenizer.convert_ids_to_tokens([max(i, 0) for i in made.ids])
    seg = made.seg[0]
    assert tokens[seg - 1] == "▁is"  # the state that makes the mask sits on the word, not on "▁"
    assert tokens[seg + 1].startswith("▁")
    after_image = tokens[made.slot + 2]
    assert after_image.startswith("▁") and after_image != "▁"


def test_pieces_join_to_the_ids_of_the_whole_text(vocab: Vocabulary) -> None:
    # The old tokenizer saw "... ASSISTANT: It is" as one text; we cut it after "ASSISTANT:".
    whole = "Please segment man on left in this image. ASSISTANT: It is"
    assert vocab.encode(whole) == vocab.encode(whole[:-6]) + vocab.encode("It is")


@pytest.mark.parametrize(
    "text, start", [("Mark things.", "Mark things. USER: The"), ("", "USER: The")]
)
def test_a_system_text_stands_in_the_place_of_vicunas_sentence(
    vocab: Vocabulary, text: str, start: str
) -> None:
    usual, other = build_dialogue(vocab, TURNS), vocab.with_system(text)
    made, rest = build_dialogue(other, TURNS), usual.slot - 1
    assert usual.ids[:rest] == (vocab.bos, *vocab.encode(f"{SYSTEM} USER: The"))
    assert made.ids == (vocab.bos, *vocab.encode(start), *usual.ids[rest:])
    assert made.labels[made.slot :] == usual.labels[usual.slot :]
    assert build_dialogue(other.with_rejection(), TURNS) == made
    with pytest.raises(ConfigError, match=r"model.system_text: .*holds the special token \[SEG\]"):
        vocab.with_system("Say [SEG].")


@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_one_seg_per_turn_or_is_refused(texts: list[str], key: int) -> None:
    vocab = load_vocabulary_once()
    try:
        made = build_dialogue(vocab, choose_turns(texts, key))
    except DataError:
        return
    assert len(made.seg) == len(texts) == made.labels.count(vocab.eos)
    assert made.ids.count(IMAGE) == 1 and made.ids.count(vocab.bos) == 1


@pytest.mark.parametrize(
    "text", ["", "  ", "the [SEG] cup", "a </s> b", "<image>", "[seg]", "x\x1b[31m", "y" * 513]
)
def test_an_expression_that_would_shift_positions_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expression"):
        phrase(text)


def test_a_special_token_is_refused_in_any_segment(vocab: Vocabulary) -> None:
    for turn in (Turn("a <im_end> b", "[SEG]."), Turn("a", "</s> [SEG].")):
        with pytest.raises(DataError, match="special token"):
            build_dialogue(vocab, [turn])


def test_a_dialogue_that_is_too_long_is_refused_not_cut(vocab: Vocabulary) -> None:
    full = build_dialogue(vocab, TURNS)
    assert build_dialogue(vocab, TURNS, limit=len(full.ids)) == full
    with pytest.raises(DataError, match="fit beside the visual tokens: use fewer"):
        build_dialogue(vocab, TURNS, limit=len(full.ids) - 1)


def test_an_open_turn_ends_where_the_answer_starts(vocab: Vocabulary) -> None:
    turn = fixed_turn("red cup")
    opened = build_dialogue(vocab, [Turn(turn.question, None)])
    closed = build_dialogue(vocab, [turn])
    assert closed.ids[: len(opened.ids)] == opened.ids
    assert opened.seg == () and opened.supervised == 0
    assert closed.labels[len(opened.ids)] != IGNORE


def test_wordings() -> None:
    assert len(set(GLAMM.questions)) == 16 and len(set(ANSWERS)) == 5
    assert all(q.count("{}") == 1 for q in GLAMM.questions)
    assert all(a.count("[SEG]") == 1 for a in ANSWERS)
    drawn = [choose_turns(["a cup"], key)[0] for key in range(4000)]
    assert len({(turn.question, turn.answer) for turn in drawn}) == 80
    assert choose_turns(["a", "b"], 5) == choose_turns(["a", "b"], 5)


def test_collate_pads_on_the_right(vocab: Vocabulary) -> None:
    long, short = build_dialogue(vocab, TURNS), build_dialogue(vocab, TURNS[:1])
    made = collate([short, long], vocab.pad)
    assert made.ids[0, : len(short.ids)].tolist() == list(short.ids)
    assert set(made.ids[0, len(short.ids) :].tolist()) == {vocab.pad}
    assert set(made.labels[0, len(short.ids) :].tolist()) == {IGNORE}
    assert made.lengths.tolist() == [len(short.ids), len(long.ids)]
    assert made.seg_row.tolist() == [0, 1, 1, 1]
    assert made.ids[made.seg_row, made.seg_col].tolist() == [vocab.seg] * 4


def test_missing_special_tokens_are_added_in_glamms_order() -> None:
    vocab = load_vocabulary(FOLDERS["llama"])
    assert vocab.tokenizer.convert_tokens_to_ids(list(ADDED)) == list(range(420, 427))
    assert vocab.size == 427
    kept = load_vocabulary(FOLDERS["tiny"])
    assert kept.tokenizer.get_added_vocab().keys() >= set(ADDED)


def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such tokenizer"):
        load_vocabulary(tmp_path / "none")
    with pytest.raises(MissingError, match="no tokenizer in this folder"):
        load_vocabulary(tmp_path)
    bare = json.loads((FOLDERS["llama"] / "tokenizer.json").read_text())
    bare["normalizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(bare))
    with pytest.raises(ConfigError, match="LLaMA-style"):
        load_vocabulary(tmp_path)


def test_choices_are_frozen() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the first output of the published generator, seed 0
    words = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    assert splitmix_array(words).tolist() == [splitmix(int(w)) for w in words]
    assert key_of(1, "refcoco", 7) == 16604049555639323173
    assert permutation(3, 6).tolist() == [0, 2, 4, 1, 5, 3]
    assert sorted(Choices(9).sample("abcd", 9)) == list("abcd")


_once: list[Vocabulary] = []


def load_vocabulary_once() -> Vocabulary:
    if not _once:
        _once.append(load_vocabulary(FOLDERS["tiny"]))
    return _once[0]


def golden() -> dict[str, list[dict[str, object]]]:
    """What golden.json holds; to write it anew after a wanted change of wording or tokenizer."""

    def one(made: Dialogue) -> dict[str, object]:
        return {"slot": made.slot, "seg": made.seg, "ids": made.ids}

    return {
        kind: [one(build_dialogue(load_vocabulary(folder), TURNS[:n])) for n in (1, 2, 3)]
        for kind, folder in FOLDERS.items()
    }
