"""A photograph is encoded and read once, whatever is asked about it and however often."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import svp
from support.micro_export import make
from svp.pipeline.bench.operators import KernelCounter
from svp.train.data.dialogues import build_dialogue, collate, usual_answer
from svp.train.data.prompts import fixed_turn
from svp.train.runs import segmenter
from svp.train.runs.segmenter import Segmenter

ASKED = ("the red disc", "a very large blue box at the left", "disc")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("session")
    make(root)
    return min((root / "scenes" / "images").glob("val*"))


@pytest.fixture
def model(photo: Path) -> Segmenter:
    """Its masks depend on the states as much as those of a trained model."""
    found = svp.load(photo.parents[2] / "export", device="cpu", size="tiny")
    with torch.no_grad():
        found._trained.model.to_prompt[2].weight.mul_(200)
    return found


@contextmanager
def counted(model: Segmenter) -> Iterator[Counter[str]]:
    """Calls of superpixels, encoder and projector; positions that the language model reads."""
    calls: Counter[str] = Counter()
    ris, was = model._trained.model, (model._source.generate_batch, model._encoder.encode)

    def told(name: str, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return call(*args, **kwargs)

        return wrapped

    def read(_: Any, args: Any, kwargs: Any) -> None:
        calls["positions"] += kwargs["inputs_embeds"].shape[1]

    model._source.generate_batch = told("superpixels", was[0])  # type: ignore[method-assign]
    model._encoder.encode = told("encoder", was[1])  # type: ignore[method-assign]
    hooks = [
        ris.projector.register_forward_hook(lambda *_: calls.update(["projector"])),
        ris.lm.model.register_forward_pre_hook(read, with_kwargs=True),
    ]
    yield calls
    for hook in hooks:
        hook.remove()
    model._source.generate_batch, model._encoder.encode = was  # type: ignore[method-assign]


def whole(model: Segmenter, photo: Path, text: str) -> torch.Tensor:
    """Logits (H,W) of one whole dialogue, nothing shared."""
    session = model.image(photo)
    vocab, ris = model._trained.vocab, model._trained.model
    seen: list[Any] = []
    hook = ris.projector.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    model._sessions.clear()
    model.image(photo)
    hook.remove()
    ((patches, grid), _), = seen  # fmt: skip
    texts = collate([build_dialogue(vocab, (fixed_turn(text, vocab.wording),))], vocab.pad)
    visual = replace(session._visual, patches=patches, grid=grid)
    batch = session._batch(visual, texts, session._sam)
    with torch.inference_mode():
        return ris.predict(batch)[0][0]


def test_answers_are_those_of_whole_dialogues_and_nothing_is_encoded_twice(
    model: Segmenter, photo: Path
) -> None:
    wanted = {text: whole(model, photo, text) for text in ASKED}
    model._sessions.clear()
    with counted(model) as calls:
        session = model.image(photo)
        once = Counter({name: calls[name] for name in ("superpixels", "encoder", "projector")})
        assert set(once.values()) == {1}
        start = calls["positions"]
        one_by_one = [session(text) for text in ASKED]
        rest = calls["positions"] - start
        assert calls - Counter({"positions": start + rest}) == once
        together = session(list(ASKED))
        again = model(photo, ASKED)
        assert again[0].tokens == session.tokens and calls["projector"] == 1
        assert calls["encoder"] == calls["superpixels"] == 1
    assert rest / len(ASKED) < start / 2
    for answers in (one_by_one, together, again):
        for text, found in zip(ASKED, answers, strict=True):
            logits = wanted[text]
            sure = logits.abs() > 1e-4 * logits.abs().max()
            assert found.expression == text
            assert (torch.from_numpy(found.mask) == (logits > 0))[sure].all()
            assert 0.5 < float(sure.float().mean()) and 0 < found.area < found.mask.size
            inside = logits[logits > 0].sigmoid().mean()
            assert found.score == pytest.approx(float(inside), abs=1e-4)


def test_a_second_expression_takes_one_pass_of_the_language_model(
    model: Segmenter, photo: Path
) -> None:
    """Twice as many layers would take twice as many operators; the encoders take none."""
    with KernelCounter() as counter:
        model._sessions.clear()
        model(photo, ASKED[0])
        counter.lap("first")
        model(photo, ASKED[1])
        counter.lap("second")
        model.image(photo)(ASKED[2])
        counter.lap("third")
    parts = {name: kernels.operators for name, kernels in counter.parts.items()}
    assert parts["second"] == parts["third"] < parts["first"] / 2


def test_photographs_are_remembered_by_their_bytes(
    model: Segmenter, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "REMEMBERED", 2)
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    (tmp_path / "other.png").write_bytes(photo.read_bytes())
    first, bright = model.image(photo), model.image(pixels + np.uint8(1))
    assert model.image(tmp_path / "other.png") is first is not bright
    assert model.image(Image.fromarray(pixels + np.uint8(1))) is bright
    model.image(tmp_path / "other.png")
    model.image(pixels + np.uint8(2))
    assert len(model._sessions) == 2
    with counted(model) as calls:
        assert model.image(photo) is first and not calls
        assert model.image(pixels + np.uint8(1)) is not bright and calls["encoder"] == 1


def test_generated_answers_of_a_session_are_those_of_one_by_one(
    model: Segmenter, photo: Path
) -> None:
    """The draft is what the model is taught to say, and nothing but the time depends on it."""
    vocab = model._trained.vocab
    assert vocab.seg in usual_answer(vocab) and vocab.eos not in usual_answer(vocab)
    session = model.image(photo)
    together = session(ASKED, generate=True)
    for text, found in zip(ASKED, together, strict=True):
        alone = session(text, generate=True)
        assert (alone.text, alone.has_seg, alone.expression) == (
            found.text,
            found.has_seg,
            text,
        )
        assert found.text and (alone.mask == found.mask).mean() > 0.99


def test_expressions_come_alone_or_in_a_list(model: Segmenter, photo: Path) -> None:
    session = model.image(photo)
    assert [one.expression for one in session(("disc",))] == [session("disc").expression]
    for ask in (session, lambda wrong: model(photo, wrong)):
        for wrong in ("", []):
            with pytest.raises(svp.SvpError, match="at least one expression"):
                ask(wrong)
