"""lmms-eval's model class: a photograph once, its expressions in batches, answers in their order."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.integrations.lmms_eval import model as module
from svp.integrations.lmms_eval.model import SvpModel
from svp.integrations.mask_text import read_answer
from svp.pipeline.errors import ConfigError
from svp.pipeline.masks.rle import decode
from svp.pipeline.records import Superpixels
from svp.train.runs.answer import Answer

SIZE = (4, 6)


@dataclass
class Segmenter:
    """As many pixels as the expression has letters; it keeps what it was asked."""

    seen: list[tuple[int, Sequence[str]]] = field(default_factory=list)
    photographs: int = 0
    closed: bool = False

    def image(self, photograph: Image.Image) -> Any:
        self.photographs += 1
        number = self.photographs

        def ask(expressions: Sequence[str], *, generate: bool) -> list[Answer]:
            self.seen.append((number, tuple(expressions)))
            return [self.answer(text) for text in expressions]

        return ask

    def answer(self, text: str) -> Answer:
        mask = np.zeros(SIZE, np.bool_)
        mask.flat[: len(text)] = True
        photo, no = np.zeros((*SIZE, 3), np.uint8), np.zeros(0)
        nothing = Superpixels(*SIZE, (), *[no] * 7)  # type: ignore[arg-type]
        return Answer(text, mask, 0.5 if text else 0.0, 3, nothing, photo, {})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    found = Segmenter()
    monkeypatch.setattr(module, "load", lambda *_, **options: found)
    monkeypatch.setattr(SvpModel, "rank", 0, raising=False)  # of lmms-eval's base class
    return found


def requests(model: SvpModel, documents: list[dict[str, Any]]) -> list[Any]:
    model.task_dict = {"t": {"val": documents}}
    picture = Image.new("RGB", SIZE[::-1])
    return [
        SimpleNamespace(args=(f"prompt {n}", {}, lambda document: [picture], n, "t", "val"))
        for n in range(len(documents))
    ]


def documents(*asked: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"image_root": "/x", "image": name, "expression": text} for name, text in asked]


def test_a_photograph_is_encoded_once_and_answers_keep_their_order(segmenter: Segmenter) -> None:
    model = SvpModel("tiny", device="cpu", batch_size="2")
    asked = documents(("a", "x"), ("a", "xy"), ("a", "xyz"), ("b", "xyzw"), ("a", ""))
    asked[4]["expression"] = "xyzwv"
    found = model.generate_until(requests(model, asked))
    masks = [read_answer(text, *SIZE) for text in found]
    assert [int(decode(mask).sum()) for mask in masks if mask is not None] == [1, 2, 3, 4, 5]
    assert segmenter.seen == [(1, ("x", "xy")), (1, ("xyz",)), (2, ("xyzw",)), (3, ("xyzwv",))]
    assert json.loads(found[0])["scores"] == [0.5]


def test_documents_of_other_tasks_are_asked_by_their_prompt(segmenter: Segmenter) -> None:
    model = SvpModel("tiny", device="cpu", budget=16)
    model.generate_until(requests(model, [{"caption": "c"}, {"caption": "c"}]))
    assert segmenter.seen == [(1, ("prompt 0",)), (2, ("prompt 1",))]


def test_an_empty_mask_is_no_mask() -> None:
    said = json.loads(module.written(Segmenter().answer("")))
    assert said == {"masks": [], "scores": []}


def test_what_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ConfigError, match="batch_size=auto: need a number"):
        SvpModel("tiny", device="cpu", batch_size="auto")
    model = SvpModel("tiny", device="cpu")
    (request,) = requests(model, documents(("a", "x")))
    request.args = (*request.args[:2], lambda document: [], *request.args[3:])
    with pytest.raises(ConfigError, match="a request with 0 photographs"):
        model.generate_until([request])
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(ConfigError, match="--model svp answers"):
            method([])
    assert not segmenter.closed
