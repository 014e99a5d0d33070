"""A photograph that a model has seen, and its answers about it.

Encoders, projector and the language model's start of the dialogue run once per photograph; each
question after that costs the rest of a dialogue and its masks.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from ...model.batch import Batch, Visual
from ...model.inference.compiled import Passes
from ...model.inference.generate import generate as generate_answers
from ...model.inference.precision import arithmetic, input_dtype
from ...model.inference.shared_prefix import answer_after, read_prefix
from ...pipeline.errors import ConfigError
from ...pipeline.records import Superpixels
from ..data.dialogues import Texts, build_dialogue, collate, usual_answer
from ..data.prompts import Turn, fixed_turn
from ..evaluation.evaluate import rejects
from ..evaluation.trained import Trained
from .answer import Answer

Expressions = str | list[str] | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One photograph as the frozen models gave it, with a leading size of 1.

    visual, sam   projector inputs and SAM embedding
    photo         (H,W,3) uint8 RGB, upright
    seconds       that it took
    """

    visual: Visual
    sam: torch.Tensor
    photo: NDArray[np.uint8]
    superpixels: Superpixels
    seconds: float


class ImageSession:
    """One photograph, encoded and read by a model: `session("the left cup")` asks about it.

    Made by `Segmenter.image`. It keeps the SAM embedding and the language model's keys and values
    of the image on the device: with LLaMA-7B about 40 MB for 40 visual tokens.

    tokens       visual tokens of the photograph
    patches      patches of the encoder: the tokens of a projector that keeps each
    superpixels  what it was cut into
    photo        (H,W,3) uint8 RGB, upright
    """

    def __init__(self, trained: Trained, passes: Passes, encoded: Encoded, device: str) -> None:
        self._model, self._vocab, self._device = trained.model, trained.vocab, device
        self._passes, visual = passes, encoded.visual
        self.photo, self.superpixels = encoded.photo, encoded.superpixels
        self.patches = visual.grid[0] * visual.grid[1]
        self._above = trained.reject_above
        began = time.perf_counter()
        # All dialogues are the same up to the mark after the image.
        dialogue = build_dialogue(self._vocab, (fixed_turn("it", self._vocab.wording),))
        height, width = encoded.photo.shape[:2]
        self._size, self._square = (height, width), trained.model.mask_head.image_size
        batch = self._batch(visual, collate([dialogue], self._vocab.pad), encoded.sam)
        batch = batch.to(device, input_dtype(self._model))
        with torch.no_grad(), arithmetic(self._model):
            self._prefix = read_prefix(self._model, batch, dialogue.slot + 2)
        self.tokens: int = self._prefix.tokens
        self._sam = batch.sam
        # It was read, unless masks are made of its tokens.
        pointed = trained.model.mask_prompt == "pointed"
        self._visual = batch.visual if pointed else Visual(batch.visual.patches[:, :0], visual.grid)
        if self._sam.is_cuda:
            torch.cuda.synchronize(self._sam.device)
        self._timings = {"encode": encoded.seconds, "read": time.perf_counter() - began}

    @overload
    def __call__(self, expression: str, *, generate: bool = False) -> Answer: ...
    @overload
    def __call__(
        self, expression: list[str] | tuple[str, ...], *, generate: bool = False
    ) -> list[Answer]: ...

    def __call__(self, expression: Expressions, *, generate: bool = False) -> Answer | list[Answer]:
        """The answer to an expression, or to each of a list, all in one pass.

        generate  let the model answer by itself; it may then give no mask

        Raises ConfigError (no expression), DataError (one that no prompt can hold).
        """
        if isinstance(expression, str):
            return self._ask((expression,), generate)[0]
        return self._ask(expression, generate)

    def _ask(self, expressions: Sequence[str], generate: bool) -> list[Answer]:
        require_expressions(expressions)
        began = time.perf_counter()
        turns = [fixed_turn(text, self._vocab.wording) for text in expressions]
        if generate:
            turns = [Turn(turn.question, None) for turn in turns]
        texts = collate([build_dialogue(self._vocab, (t,)) for t in turns], self._vocab.pad)
        batch = self._batch(self._visual, texts, self._sam)
        batch = batch.to(self._device)
        answer = self._generated if generate else self._forced
        with torch.no_grad(), arithmetic(self._model):
            found = answer(batch, expressions)
        timings = self._timings | {"answer": time.perf_counter() - began}
        return [replace(one, timings=timings) for one in found]

    def _forced(self, batch: Batch, expressions: Sequence[str]) -> list[Answer]:
        masks, before = answer_after(self._passes, batch, self._prefix)
        found = []
        for text, logits, chance in zip(expressions, masks, self._rejections(before), strict=True):
            rejected = rejects(chance, self._above)
            one = self._answer(text, logits[:0] if rejected else logits)
            found.append(replace(one, rejected=rejected, rejection=chance))
        return found

    def _generated(self, batch: Batch, expressions: Sequence[str]) -> list[Answer]:
        vocab = self._vocab
        said = generate_answers(
            self._model, batch, seg=vocab.seg, eos=vocab.ends, draft=usual_answer(vocab),
            prefix=self._prefix, passes=self._passes,
        )  # fmt: skip
        found = []
        for text, logits, ids, seg in zip(
            expressions, said.masks, said.ids, said.seg.tolist(), strict=True
        ):
            one = self._answer(text, logits)
            rejected = not seg and vocab.rej in ids
            found.append(replace(one, text=vocab.decode(ids), has_seg=seg, rejected=rejected))
        return found

    def _answer(self, expression: str, logits: torch.Tensor) -> Answer:
        """Of logits (1,H,W), or (0,H,W) for no mask."""
        found = logits[0] if len(logits) else logits.new_zeros(logits.shape[1:])
        inside = found > 0
        score = float(found[inside].sigmoid().mean()) if bool(inside.any()) else 0.0
        return Answer(
            expression, inside.cpu().numpy(), score, self.tokens, self.superpixels, self.photo,
            self._timings,
        )  # fmt: skip

    def _rejections(self, before: torch.Tensor) -> Sequence[float | None]:
        vocab = self._vocab
        if vocab.rej is None:
            return [None] * len(before)
        chances: list[float] = self._model.rejection(before, vocab.seg, vocab.rej).tolist()
        return chances

    def _batch(self, visual: Visual, texts: Texts, sam: torch.Tensor) -> Batch:
        """Dialogues about the image, without targets."""
        count = len(texts.ids)
        return Batch(
            visual, *texts, sam=sam, square=self._square, sizes=(self._size,) * count,
            packed=None, sent_ids=((),) * count,
        )  # fmt: skip


def require_expressions(expressions: Sequence[str]) -> None:
    """Raises ConfigError if there is none, or an empty one."""
    if not all(map(str.strip, expressions or ("",))):
        raise ConfigError("give at least one expression")
