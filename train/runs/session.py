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
from ...model.inference.ask import asked
from ...model.inference.attended import visual_attention
from ...model.inference.compiled import Passes
from ...model.inference.generate import generate as generate_answers
from ...model.inference.precision import arithmetic, input_dtype
from ...model.inference.shared_prefix import read_blank, read_prefix, reply_after
from ...pipeline.errors import ConfigError
from ...pipeline.records import Superpixels
from ...pipeline.superpixels.budget.selector import AUTO, Selector
from ..data.collate import CachedVisuals
from ..data.dialogues import Texts, build_dialogue, collate, usual_answer
from ..data.expression_table import Entry
from ..data.prompts import Turn, fixed_turn
from ..evaluation.rejection import rejections, rejects
from ..evaluation.trained import Trained, require_forced
from ..evaluation.unions import pieces_of, union_logits
from .answer import Answer

Expressions = str | list[str] | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One photograph as the frozen models gave it.

    visuals  reader of the photograph alone, `entry`, at a budget of superpixels
    photo    (H,W,3) uint8 RGB, upright
    seconds  that it took
    """

    visuals: CachedVisuals
    entry: Entry
    photo: NDArray[np.uint8]
    superpixels: Superpixels
    seconds: float

    def at(self, count: int | None) -> "Encoded":
        """At a budget of `count` superpixels; None: all."""
        selector = None if count is None else Selector(exact=count)
        return replace(self, visuals=self.visuals.selecting(selector))


@dataclass(frozen=True, eq=False)
class Attended:
    """Attention of an answer to the visual tokens of its photograph, of 1; what is missing is text's.

    shares  (N,) float32 of each superpixel's token, NaN of one that has none at this budget
    rest    of the token of all that have none; 0 where all have one
    """

    shares: NDArray[np.float32]
    rest: float

    @property
    def total(self) -> float:
        """Attention to the photograph."""
        return float(np.nansum(self.shares)) + self.rest


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
        self._trained, self._passes, self._encoded = trained, passes, encoded
        self._fewer: tuple[int, ImageSession] | None = None
        visual, sam, _ = encoded.visuals.read([encoded.entry], [None])
        self.photo, self.superpixels = encoded.photo, encoded.superpixels
        self._grid = visual.grid
        self.patches = visual.grid[0] * visual.grid[1]
        self._above, self._budget = trained.reject_above, trained.budget
        self._decoder = trained.decoder
        began = time.perf_counter()
        # All dialogues are the same up to the mark after the image.
        dialogue = build_dialogue(self._vocab, (fixed_turn("it", self._vocab.wording),))
        height, width = encoded.photo.shape[:2]
        self._size, self._square = (height, width), trained.model.mask_head.image_size
        batch = self._batch(visual, collate([dialogue], self._vocab.pad), sam)
        batch = batch.to(device, input_dtype(self._model))
        with torch.no_grad(), arithmetic(self._model):
            self._prefix = read_prefix(self._model, batch, dialogue.slot + 2)
        self.tokens: int = self._prefix.tokens
        self._sam = batch.sam
        # It was read, unless masks are made of its tokens, or each question takes its own.
        again = trained.model.mask_prompt == "pointed" or self._budget.ask is not None
        self._visual = batch.visual if again else Visual(batch.visual.patches[:, :0], visual.grid)
        self._wait()
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

        Raises ConfigError (no expression; `generate` without a decoder or with budget ask:N), DataError
        (one that no prompt can hold).
        """
        if isinstance(expression, str):
            return self._ask((expression,), generate)[0]
        return self._ask(expression, generate)

    @property
    def reads_superpixels(self) -> bool:
        """Whether a visual token is a superpixel."""
        projector = self._model.projector
        return "masks" in projector.needs and projector.num_tokens(self._grid) is None

    @property
    def kept(self) -> int:
        """Superpixels with a token of their own; 0 for a model that reads none."""
        if not self.reads_superpixels:
            return 0
        return len(self._encoded.visuals.chosen(self._encoded.entry).kept)

    def at(self, superpixels: int) -> "ImageSession":
        """The same photograph with at most so many superpixels as tokens, and those left out as one
        more. Nothing is encoded again, and the last such session is kept.

        They are taken by the order of the model's prior (`svp cache order`), else by k-centre.
        Raises ConfigError for a model that reads no superpixels, and for less than one.
        """
        self._require_superpixels()
        if superpixels < 1:
            raise ConfigError(f"superpixels={superpixels}: need at least 1")
        if self._fewer is None or self._fewer[0] != superpixels:
            fewer = self._encoded.at(superpixels)
            self._fewer = (
                superpixels,
                ImageSession(
                    replace(self._trained, budget=AUTO), self._passes, fewer, self._device
                ),
            )
        return self._fewer[1]

    def attention(self, expression: str) -> Attended:
        """Attention of the answer to an expression, as `visual_attention`; with a budget ask:N that of the
        model which is shown all superpixels.

        Raises ConfigError as a call, and for a model that reads no superpixels.
        """
        require_expressions((expression,))
        self._require_superpixels()
        batch = self._asked([fixed_turn(expression, self._vocab.wording)])
        with torch.no_grad(), arithmetic(self._model):
            weights = visual_attention(self._model, batch, self._prefix)[0].cpu().numpy()
        chosen = self._encoded.visuals.chosen(self._encoded.entry)
        shares = np.full(len(self.superpixels), np.nan, np.float32)
        shares[chosen.kept] = weights[: len(chosen.kept)]
        return Attended(shares, float(weights[len(chosen.kept) :].sum()))

    def cost_with(self, tokens: int) -> dict[str, float]:
        """Seconds that the language model takes with so many visual tokens: "read" and "answer".

        Measured with tokens of zeros; without what a projector takes to make them.
        """
        turn = fixed_turn("it", self._vocab.wording)
        batch, ids = self._asked([turn]), build_dialogue(self._vocab, (turn,)).slot + 2
        taken: dict[str, float] = {}
        with torch.no_grad(), arithmetic(self._model):
            for _ in range(2):  # the first time what is met for the first time is set up
                began = time.perf_counter()
                prefix = read_blank(self._model, batch, ids, tokens)
                self._wait()
                taken["read"] = time.perf_counter() - began
                began = time.perf_counter()
                reply = reply_after(self._passes, batch, prefix)
                if self._decoder:
                    self._model.drawn(reply, batch)
                self._wait()
                taken["answer"] = time.perf_counter() - began
        return taken

    def _require_superpixels(self) -> None:
        if not self.reads_superpixels:
            name = self._trained.recipe.model.projector.name
            raise ConfigError(f"projector {name} makes no token of a superpixel")

    def _wait(self) -> None:
        if self._sam.is_cuda:
            torch.cuda.synchronize(self._sam.device)

    def _asked(self, turns: Sequence[Turn]) -> Batch:
        """Dialogues of one turn each about the photograph, on the device."""
        texts = collate([build_dialogue(self._vocab, (t,)) for t in turns], self._vocab.pad)
        return self._batch(self._visual, texts, self._sam).to(self._device)

    def _ask(self, expressions: Sequence[str], generate: bool) -> list[Answer]:
        require_expressions(expressions)
        require_forced(generate, None, self._decoder, self._budget)
        began = time.perf_counter()
        turns = [fixed_turn(text, self._vocab.wording) for text in expressions]
        if generate:
            turns = [Turn(turn.question, None) for turn in turns]
        batch = self._asked(turns)
        answer = self._generated if generate else self._forced
        with torch.no_grad(), arithmetic(self._model):
            found = answer(batch, expressions)
        timings = self._timings | {"answer": time.perf_counter() - began}
        return [replace(one, timings=timings) for one in found]

    def _forced(self, batch: Batch, expressions: Sequence[str]) -> list[Answer]:
        looks, tokens, kept = [(self._encoded.entry, None)] * len(expressions), self.tokens, None
        if self._budget.ask is None:
            reply = reply_after(self._passes, batch, self._prefix)
        else:
            batch, kept = asked(self._model, batch, self._budget.ask)
            reply = self._model.reply(batch)
            tokens = reply.tokens.shape[1]
        if self._decoder:
            masks = self._model.drawn(reply, batch)
        else:
            scores = self._model.meant(reply, batch)
            pieces = pieces_of(self._encoded.visuals, looks, kept)
            masks = [union_logits(s, p)[None] for s, (p, _) in zip(scores, pieces, strict=True)]
        chances = rejections(self._model, batch, reply, self._vocab, self._above)
        found = []
        for text, logits, chance in zip(expressions, masks, chances, strict=True):
            rejected = rejects(chance, self._above)
            one = self._answer(text, logits[:0] if rejected else logits)
            found.append(replace(one, tokens=tokens, rejected=rejected, rejection=chance))
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
