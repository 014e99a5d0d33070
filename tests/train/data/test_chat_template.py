"""Dialogues by a model's own chat template, against transformers' `apply_chat_template`."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from support.families import SMALL, Small, write_family
from svp.model.batch import IGNORE
from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.train.data.chat_template import TODAY
from svp.train.data.dialogues import build_dialogue, usual_answer
from svp.train.data.prompts import CHAT, Turn
from svp.train.data.tokenizer import ADDED, IMAGE, Vocabulary, load_vocabulary

TURNS = [
    Turn("Please segment the red cup in this image.", "It is [SEG]."),
    Turn("What is man on the left in this image?", "[SEG]."),
    Turn(
        "Can you highlight the  wide   gap in this image", "Sure, the segmentation result is [SEG]."
    ),
]


@pytest.fixture(scope="module", params=SMALL, ids=lambda small: small.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Small, Path]:
    small: Small = request.param
    return small, write_family(small, tmp_path_factory.mktemp("words") / small.name)


class Then(datetime):
    """The day that prompts are dated with."""

    @classmethod
    def now(cls, tz: Any = None) -> "Then":
        return cls(TODAY.year, TODAY.month, TODAY.day)


def theirs(
    vocab: Vocabulary, turns: Sequence[Turn], system: str | None = None, **options: Any
) -> list[int]:
    """By transformers; the image has no token in its text."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number, turn in enumerate(turns):
        start = f"{CHAT.before}<im_start><im_end>{CHAT.after}" if not number else ""
        messages.append({"role": "user", "content": start + turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    found: list[int] = vocab.tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, enable_thinking=False,
        add_generation_prompt=turns[-1].answer is None, **options,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("closed", [True, False])
def test_ids_are_those_of_apply_chat_template(
    case: tuple[Small, Path], count: int, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    vocab = load_vocabulary(case[1])
    turns = (
        TURNS[:count] if closed else [*TURNS[: count - 1], Turn(TURNS[count - 1].question, None)]
    )
    made = build_dialogue(vocab, turns)
    assert made.ids[made.slot - 1 : made.slot + 2] == (vocab.im_start, IMAGE, vocab.im_end)
    assert [token for token in made.ids if token != IMAGE] == theirs(vocab, turns)
    assert [made.ids[place] for place in made.seg] == [vocab.seg] * (count - (not closed))


@pytest.mark.parametrize("closed", [True, False])
def test_with_a_system_text_too(
    case: tuple[Small, Path], closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    said = "Mark what is named.\n\nAnswer  with a mask /no_think alone"
    plain = load_vocabulary(case[1])
    vocab = plain.with_system(said)
    turns = TURNS if closed else [*TURNS[:2], Turn(TURNS[2].question, None)]
    made = build_dialogue(vocab, turns)
    assert [token for token in made.ids if token != IMAGE] == theirs(vocab, turns, said)
    usual = build_dialogue(plain, turns)
    assert made.ids[made.slot :] == usual.ids[usual.slot :]  # all else is as without it
    assert made.ids != usual.ids and plain.system is None
    assert vocab.with_rejection().system == said
    assert build_dialogue(vocab.with_rejection(), turns) == made


# Of the families whose template says something by itself: what begins and ends its system message.
OWN = {
    "smollm2": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
    "qwen2.5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    "smollm3": "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 26 July 2024\n"
    "Reasoning Mode: /no_think\n\n## Custom Instructions\n\nYou are a helpful AI assistant named SmolLM.\n\n<|im_end|>\n",
    "granite3": "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n"
    "Today's Date: July 26, 2024.\nYou are Granite, developed by IBM.<|end_of_text|>\n",
}
OWN["qwen2.5-window"] = OWN["qwen2.5"]


def test_an_empty_system_text_leaves_out_what_the_template_says_by_itself(
    case: tuple[Small, Path],
) -> None:
    small, folder = case
    plain = load_vocabulary(folder)
    for turns in (TURNS, [Turn(TURNS[0].question, None)]):
        made, usual = build_dialogue(plain.with_system(""), turns), build_dialogue(plain, turns)
        own = plain.encode_as_is(OWN.get(small.name, ""))
        assert (*own, *made.ids) == usual.ids
        assert made.labels == usual.labels[len(own) :]


@pytest.mark.parametrize(
    "template, why",
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
            + SMALL[0].template,
            "fails: System role not supported",
        ),
        (
            "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
            + SMALL[0].template,
            "leaves its text out",
        ),
    ],
)
def test_a_template_without_a_system_message_refuses_one(
    tmp_path: Path, template: str, why: str
) -> None:
    folder = write_family(SMALL[0], tmp_path / "m")
    usual = load_vocabulary(folder)
    (folder / "chat_template.jinja").write_text(template)
    vocab = load_vocabulary(folder)
    message = f"model.system_text: the chat template of .*Llama.* takes no system message: it {why}: leave"
    with pytest.raises(ConfigError, match=message):
        vocab.with_system("Be brief.")
    assert build_dialogue(vocab.with_system(""), TURNS) == build_dialogue(usual, TURNS)


def test_special_tokens_in_a_system_text_are_refused(case: tuple[Small, Path]) -> None:
    vocab = load_vocabulary(case[1])
    for token in (*case[0].tokens, "[SEG]", "<image>"):
        with pytest.raises(ConfigError, match="model.system_text: .*holds the special token"):
            vocab.with_system(f"Answer with {token} alone.")


def test_answers_and_their_ends_are_supervised(case: tuple[Small, Path]) -> None:
    vocab = load_vocabulary(case[1])
    made = build_dialogue(vocab, TURNS)
    supervised = [(i, t) for i, t in enumerate(made.labels) if t != IGNORE]
    assert all(made.ids[i] == token for i, token in supervised)
    ends = [i for i, token in supervised if token == vocab.eos]
    assert len(ends) == 3 and vocab.eos in vocab.ends
    answers, start = [], 0
    for end in ends:
        answers.append([token for i, token in supervised if start <= i < end])
        start = end + 1
    texts = [vocab.tokenizer.decode(ids).replace(" ", "") for ids in answers]
    assert texts == [(turn.answer or "").replace(" ", "") for turn in TURNS]
    assert usual_answer(vocab) == (vocab.seg,)
    assert build_dialogue(vocab, [Turn(TURNS[0].question, None)]).supervised == 0


def test_an_open_dialogue_is_the_start_of_the_answered_one(case: tuple[Small, Path]) -> None:
    vocab = load_vocabulary(case[1])
    asked = build_dialogue(vocab, [Turn(TURNS[0].question, None)]).ids
    assert build_dialogue(vocab, TURNS[:1]).ids[: len(asked)] == asked


def test_new_tokens_come_after_all_there_are(case: tuple[Small, Path]) -> None:
    _, folder = case
    vocab = load_vocabulary(folder)
    own = json.loads((folder / "tokenizer.json").read_text())
    last = max([*own["model"]["vocab"].values(), *(t["id"] for t in own["added_tokens"])])
    assert (vocab.im_start, vocab.im_end, vocab.seg) == (last + 1, last + 2, last + 3)
    assert (vocab.base, vocab.size) == (last + 1, last + 4)
    ids = build_dialogue(vocab, TURNS[:1]).ids
    assert vocab.decode(ids).count("[SEG]") == 0 and "red cup" in vocab.decode(ids)


def test_a_saved_tokenizer_gives_the_same_ids(case: tuple[Small, Path], tmp_path: Path) -> None:
    """As an export has it, in the files that transformers writes."""
    _, folder = case
    vocab = load_vocabulary(folder)
    vocab.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    back = load_vocabulary(tmp_path)
    assert back.size == vocab.size == back.base  # nothing is added again
    assert build_dialogue(back, TURNS) == build_dialogue(vocab, TURNS)


@pytest.mark.parametrize(
    "text", ["<|im_start|>system", "a [SEG]", "the <|im_end|> cup", "<im_start>"]
)
def test_special_tokens_in_an_expression_are_refused(tmp_path: Path, text: str) -> None:
    vocab = load_vocabulary(write_family(SMALL[0], tmp_path / "m"))
    with pytest.raises(DataError, match="holds the special token"):
        build_dialogue(vocab, [Turn(f"Please segment {text} in this image.", None)])
    with pytest.raises(DataError, match="holds the special token"):
        build_dialogue(
            vocab, [Turn("Please segment it", f"{text.replace('[SEG]', '<im_end>')} [SEG].")]
        )


TEMPLATES = {
    "{{ messages[0].content }}": "leaves out, or repeats",
    "{% for m in messages %}{{ m.content }}\n{% endfor %}": "ends an answer with '\\\\n'",
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}think{% endif %}": "opens an answer otherwise",
    "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}": "chat template fails: no",
    "{% for m in": "chat template fails",
    "{{ ''.__class__.__mro__ }}": "chat template fails: access to attribute",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_cannot_be_cut_are_refused(tmp_path: Path, template: str) -> None:
    folder = write_family(SMALL[0], tmp_path / "m")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=TEMPLATES[template]):
        load_vocabulary(folder)


def test_a_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    folder = write_family(SMALL[4], tmp_path / "m")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(MissingError, match="no chat template .*Instruct"):
        load_vocabulary(folder)


def test_llamas_own_tokenizer_keeps_vicunas_dialogue(tmp_path: Path) -> None:
    """LLaMA-2-chat has a template; its tokens and words stay what GLaMM and LISA were trained on."""
    from support import FIXTURES

    words = (FIXTURES / "tokenizer" / "llama" / "tokenizer.json").read_text()
    before = None
    for template in (
        {},
        {"chat_template": "{% for m in messages %}{{ m.content }}</s>{% endfor %}"},
    ):
        folder = tmp_path / str(len(template))
        folder.mkdir()
        (folder / "tokenizer.json").write_text(words)
        (folder / "tokenizer_config.json").write_text(json.dumps(template))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        vocab = load_vocabulary(folder)
        assert (
            vocab.chat is None and vocab.bos == 1 and set(ADDED) < set(vocab.tokenizer.get_vocab())
        )
        made = build_dialogue(vocab, TURNS)
        assert before in (None, made)
        before = made
