"""Published tokenizer files, in every combination: ids are sentencepiece's, rows the layout's."""

import importlib.util
import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from svp.model.conversion.key_mapping import LAYOUTS
from svp.model.conversion.stand_in import write_words
from svp.model.conversion.stand_in_tokenizer import WORDS
from svp.pipeline.errors import (
    ConfigError,
    DataError,
    MissingError,
    MissingPackageError,
    SvpError,
    WeightsError,
)
from svp.train.data import llama_tokenizer
from svp.train.data.dialogues import build_dialogue, segments
from svp.train.data.prompts import LISA, Turn, choose_turns, fixed_turn
from svp.train.data.tokenizer import ADDED, IMAGE, Vocabulary, load_vocabulary

sentencepiece = pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
FILES = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
TEXTS = ("the red cup", "the  red cup", "man    far   right", "a  b", "left .. person", "é 日 12",
         "tab\tinside", "x" * 300, "▁ underline", "<s", "[SEG", "don't  stop ")  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_words(folder, LAYOUTS["glamm"])
    return folder


@pytest.fixture(scope="module")
def model(published: Path) -> "sentencepiece.SentencePieceProcessor":
    return sentencepiece.SentencePieceProcessor(model_file=str(published / "tokenizer.model"))


def copy(source: Path, folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.model", *names):
        shutil.copy(source / name, folder)
    return folder


def state(folder: Path, tokens: Mapping[str, object], name: str = "added_tokens.json") -> None:
    (folder / name).write_text(json.dumps(tokens))


def test_ids_are_sentencepieces_whatever_files_and_model_type(
    published: Path, model: "sentencepiece.SentencePieceProcessor", tmp_path: Path
) -> None:
    for kept in range(1 << len(FILES)):
        names = [name for bit, name in enumerate(FILES) if kept >> bit & 1]
        folder = copy(published, tmp_path / f"{kept}", *names)
        for kind in ("llava", "glamm", "lisa", "llama", "qwen2", None):
            state(folder, {"model_type": kind} if kind else {}, "config.json")
            if kept != 7 and kind != "llava":
                continue
            vocab = load_vocabulary(folder, LAYOUTS["glamm"])
            for text in TEXTS:
                assert list(vocab.encode(text)) == model.encode(text.strip()), (names, kind, text)
            assert {t: vocab.tokenizer.convert_tokens_to_ids(t) for t in ADDED} == dict(
                LAYOUTS["glamm"].ids()
            )
            assert (vocab.bos, vocab.eos, vocab.pad, vocab.size) == (1, 2, 0, 32_007)


def test_the_exported_form_has_the_same_ids(
    published: Path, model: "sentencepiece.SentencePieceProcessor", tmp_path: Path
) -> None:
    """`tokenizer.json` alone, as an export holds it, and AutoTokenizer's reading of it."""
    from transformers import AutoTokenizer

    load_vocabulary(published).tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    vocab, auto = (
        load_vocabulary(tmp_path, LAYOUTS["glamm"]),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    draw = random.Random(0)
    words = [*" ".join(WORDS).split(), " ", "  ", "é", "\u3042", "qz", "7"]
    for text in (*TEXTS, *("".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(500))):
        wanted = model.encode(text.strip())
        assert list(vocab.encode(text)) == wanted, text
        assert auto(text.strip(), add_special_tokens=False).input_ids == wanted, text
    assert auto.convert_tokens_to_ids("[SEG]") == 32_004


def test_a_dialogue_has_the_ids_of_the_slow_tokenizer(
    published: Path, model: "sentencepiece.SentencePieceProcessor"
) -> None:
    """transformers 4.28: split at added tokens, blanks beside them dropped, pieces by sentencepiece."""
    vocab = load_vocabulary(published, LAYOUTS["glamm"])
    turns = (Turn("What is  the red cup?", "Sure, it is [SEG]."), Turn("a  b", "[SEG]."))
    whole = "".join(segment.text for segment in segments(turns))
    ids = {"<image>": IMAGE, "</s>": 2, **LAYOUTS["glamm"].ids()}
    wanted = [1]
    for part in re.split(r"(<im_start>|<image>|<im_end>|\[SEG\]|</s>)", whole):
        wanted += [ids[part]] if part in ids else model.encode(part.strip())
    assert list(build_dialogue(vocab, turns).ids) == wanted


@pytest.mark.parametrize("layout", ["glamm", "lisa"])
def test_added_tokens_come_in_the_layouts_order(
    published: Path, tmp_path: Path, layout: str
) -> None:
    """Vicuna's folder knows none of them."""
    vocab = load_vocabulary(copy(published, tmp_path / "bare"), LAYOUTS[layout])
    for token, row in LAYOUTS[layout].ids().items():
        assert vocab.tokenizer.convert_tokens_to_ids(token) == row
    assert vocab.wording.name == layout


def test_a_language_model_gets_glamms_tokens_after_its_own(published: Path, tmp_path: Path) -> None:
    folder = copy(published, tmp_path / "pad")
    state(folder, {"<unk>": 0, "<s>": 1, "</s>": 2, "[PAD]": 32000})  # as Alpaca and Vicuna v0
    vocab = load_vocabulary(folder)
    assert (vocab.im_start, vocab.seg, vocab.size) == (32001, 32005, 32008)
    with pytest.raises(WeightsError, match=r"gives <im_start> the id 32001.*row 32000"):
        load_vocabulary(folder, LAYOUTS["glamm"])


@pytest.mark.parametrize(
    ("tokens", "layout", "message"),
    [
        (LAYOUTS["lisa"].ids(), "glamm", r"\[SEG\]|<im_start> the id 32001.*row 32000"),
        (LAYOUTS["glamm"].ids(), "lisa", r"<im_patch> the id None.*row 32000|<im_patch>"),
        ({**LAYOUTS["glamm"].ids(), "[SEG]": 32005, "<p>": 32004}, "glamm", r"\[SEG\] the id 32005"),
        ({"[SEG]": 32004}, "glamm", "id 32000 out|the id"),
        ({**LAYOUTS["glamm"].ids(), "[SEG]": 40_000}, "glamm", "leave id 32004 out"),
        ({**LAYOUTS["glamm"].ids(), "[SEG]": 5}, "glamm", "id 5 is"),
        ({**LAYOUTS["glamm"].ids(), "[SEG]": 32001}, "glamm", "id 32001 is"),
        ({**LAYOUTS["glamm"].ids(), "</s>": 32004}, "glamm", "</s>"),
        ({"[SEG]": "32004"}, "glamm", "which is none"),
        ({"[SEG]": True}, "glamm", "which is none"),
        ({"[SEG]": 10**12}, "glamm", "which is none"),
    ],
)  # fmt: skip
def test_ids_that_do_not_fit_the_rows_are_refused(
    published: Path, tmp_path: Path, tokens: dict[str, object], layout: str, message: str
) -> None:
    folder = copy(published, tmp_path / "odd")
    state(folder, tokens)
    with pytest.raises(WeightsError, match=message):
        load_vocabulary(folder, LAYOUTS[layout])


def test_files_that_contradict_each_other_are_refused(published: Path, tmp_path: Path) -> None:
    folder = copy(published, tmp_path / "two", "added_tokens.json")
    decoder = {"32003": {"content": "[SEG]", "special": True}}
    state(folder, {"added_tokens_decoder": decoder}, "tokenizer_config.json")
    with pytest.raises(WeightsError, match=r"tokenizer_config.json: \[SEG\] has id 32003 here and"):
        load_vocabulary(folder)
    state(folder, {"added_tokens_decoder": ["[SEG]"]}, "tokenizer_config.json")
    with pytest.raises(WeightsError, match="not an object"):
        load_vocabulary(folder)


def test_ids_in_the_newer_configuration_are_read(published: Path, tmp_path: Path) -> None:
    folder = copy(published, tmp_path / "new")
    decoder = {str(n): {"content": t} for t, n in {"<s>": 1, **LAYOUTS["lisa"].ids()}.items()}
    state(folder, {"added_tokens_decoder": decoder}, "tokenizer_config.json")
    assert load_vocabulary(folder, LAYOUTS["lisa"]).seg == 32_003
    assert load_vocabulary(folder).seg == 32_003


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 4000, b"<html>"])
def test_a_damaged_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(SvpError, match=r"tokenizer\.model"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        load_vocabulary(tmp_path)


def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"tokenizer\.model and tokenizer\.json"):
        load_vocabulary(tmp_path)


def test_without_sentencepiece_the_extra_is_named(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(published, tmp_path / "bare")
    both = copy(published, tmp_path / "both")
    load_vocabulary(published).tokenizer.save_pretrained(both)
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    monkeypatch.setattr(llama_tokenizer, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"sentencepiece: pip install 'svp\[train\]'"):
        load_vocabulary(folder)
    assert load_vocabulary(both).seg == 32_004  # tokenizer.json needs none
    assert importlib.util.find_spec("tokenizers")


@pytest.mark.parametrize("text", ["a <im_patch> b", "a [SEG] b", "a </s>", "<unk>"])
def test_no_special_token_passes_as_text(published: Path, tmp_path: Path, text: str) -> None:
    vocab = load_vocabulary(copy(published, tmp_path / "lisa"), LAYOUTS["lisa"])
    with pytest.raises(DataError, match="special token"):
        vocab.encode(text)


def lisas(published: Path, folder: Path) -> Vocabulary:
    return load_vocabulary(copy(published, folder), LAYOUTS["lisa"])


def test_lisas_own_prompt(published: Path, tmp_path: Path) -> None:
    """utils/dataset.py of LISA, conversation template llava_v1."""
    text = "".join(s.text for s in segments([fixed_turn("Red CUP ", LISA)], LISA))
    assert text == (
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions. USER: <im_start>"
        "<image><im_end>\nWhat is red cup in this image? Please output segmentation mask. "
        "ASSISTANT: [SEG].</s>"
    )
    vocab = lisas(published, tmp_path / "lisa")
    made = build_dialogue(vocab, [fixed_turn("red cup", vocab.wording)])
    assert made.ids[made.slot - 1 : made.slot + 2] == (32001, IMAGE, 32002)
    after = vocab.encode("What is red cup in this image?")
    assert made.ids[made.slot + 2 : made.slot + 2 + len(after)] == after
    assert [made.ids[n] for n in made.seg] == [32003]


def test_lisas_questions() -> None:
    drawn = {choose_turns(["a cup"], key, LISA)[0].question for key in range(200)}
    assert drawn == {
        "Can you segment the a cup in this image?",
        "Please segment the a cup in this image.",
        "What is a cup in this image? Please respond with segmentation mask.",
        "What is a cup in this image? Please output segmentation mask.",
    }


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2, "<unk>": 3}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="LLaMA-style"):
        load_vocabulary(tmp_path)


def test_a_tokenizer_without_entries_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="LLaMA-style|no single id"):
        load_vocabulary(tmp_path)
