"""A photograph that a model has seen, and its answers about it.

Encoders, projector and the language model's start of the dialogue run once per photograph; each
question after that costs the rest of a dialogue and its masks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...model.batch import Batch, Visual
from ...model.inference.compiled import Passes
from ...model.inference.generate import generate as generate_answers
from ...model.inference.precision import arithmetic, input_dtype
from ...model.inference.shared_prefix import answer_after, read_prefix
from ...pipeline.errors import ConfigError
from ...pipeline.masks import rle
from ..data.dialogues import Texts, build_dialogue, collate, usual_answer
from ..data.prompts import Turn, fixed_turn
from ..evaluation.evaluate import rejects
from ..evaluation.trained import Trained

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prediction:
    """One answer.

    mask     (H,W) bool, of the photograph as viewers show it (EXIF orientation applied)
    score    mean foreground probability over the mask's pixels, in (0.5, 1]; 0 for an empty mask.
             Not calibrated: it orders answers of one model
    answer   the generated text; None with teacher forcing
    has_seg  False if the generated answer has no [SEG]: the mask is empty then
    rejected  the answer is that there is no such object: the mask is empty
    rejection  chance of that answer, [REJ], against [SEG], with teacher forcing; None of a model that
             was not trained with it
    box      x1 y1 x2 y2 in pixels with inclusive maxima; None for an empty mask
    """

    expression: str
    mask: Mask
    score: float
    answer: str | None = None
    has_seg: bool = True
    rejected: bool = False
    rejection: float | None = None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Around the mask."""
        ys, xs = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return (int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])) if len(xs) else None

    def record(self) -> dict[str, object]:
        """As JSON, the mask as COCO RLE."""
        found = rle.encode(self.mask)
        mask = {"size": [found.height, found.width], "counts": found.counts.decode("ascii")}
        return asdict(self) | {"area": self.area, "box": self.box, "mask": mask}


@dataclass(frozen=True)
class Answers:
    """Results for one image: its visual tokens, and a prediction per expression."""

    tokens: int
    predictions: list[Prediction]


class ImageSession:
    """One photograph, encoded and read by a model: `session("the left cup")` asks about it.

    Made by `Predictor.image`. It keeps the SAM embedding and the language model's keys and values
    of the image on the device: with LLaMA-7B about 40 MB for 40 visual tokens.

    tokens  visual tokens of the photograph
    """

    def __init__(
        self,
        trained: Trained,
        passes: Passes,
        visual: Visual,
        sam: torch.Tensor,
        size: tuple[int, int],
        device: str,
    ) -> None:
        """Of one image: projector inputs and SAM embedding with a leading size of 1; (H,W)."""
        self._model, self._vocab, self._device = trained.model, trained.vocab, device
        self._passes = passes
        # All dialogues are the same up to the mark after the image.
        dialogue = build_dialogue(self._vocab, (fixed_turn("it", self._vocab.wording),))
        self._size, self._square = size, trained.model.mask_head.image_size
        batch = self._batch(visual, collate([dialogue], self._vocab.pad), sam)
        batch = batch.to(device, input_dtype(self._model))
        with torch.no_grad(), arithmetic(self._model):
            self._prefix = read_prefix(self._model, batch, dialogue.slot + 2)
        self.tokens: int = self._prefix.tokens
        self._sam = batch.sam
        self._nothing = Visual(batch.visual.patches[:, :0], visual.grid)  # it was read

    def __call__(self, expression: str, *, generate: bool = False) -> Prediction:
        """The mask of what `expression` names; see `ask`."""
        return self.ask((expression,), generate=generate)[0]

    def ask(self, expressions: Sequence[str], *, generate: bool = False) -> list[Prediction]:
        """A mask per expression, all in one pass.

        generate  let the model answer by itself; it may then give no mask

        Raises ConfigError (no expression), DataError (one that no prompt can hold).
        """
        require_expressions(expressions)
        turns = [fixed_turn(text, self._vocab.wording) for text in expressions]
        if generate:
            turns = [Turn(turn.question, None) for turn in turns]
        texts = collate([build_dialogue(self._vocab, (t,)) for t in turns], self._vocab.pad)
        batch = self._batch(self._nothing, texts, self._sam)
        batch = batch.to(self._device)
        with torch.no_grad(), arithmetic(self._model):
            if not generate:
                masks, before = answer_after(self._passes, batch, self._prefix)
                pairs = zip(expressions, masks, self._rejections(before), strict=True)
                return [_forced(text, logits, chance) for text, logits, chance in pairs]
            vocab = self._vocab
            said = generate_answers(
                self._model, batch, seg=vocab.seg, eos=vocab.ends, draft=usual_answer(vocab),
                prefix=self._prefix, passes=self._passes,
            )  # fmt: skip
            rows = zip(expressions, said.masks, said.ids, said.seg.tolist(), strict=True)
            return [
                Prediction(
                    text, *_mask(logits), vocab.decode(ids), seg, not seg and vocab.rej in ids
                )
                for text, logits, ids, seg in rows
            ]

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
    """Raises ConfigError for a single text, or none."""
    if isinstance(expressions, str) or not expressions:
        raise ConfigError("give at least one expression, in a list")


def _forced(text: str, logits: torch.Tensor, chance: float | None) -> Prediction:
    rejected = rejects(chance)
    mask = _mask(logits[:0] if rejected else logits)
    return Prediction(text, *mask, rejected=rejected, rejection=chance)


def _mask(logits: torch.Tensor) -> tuple[Mask, float]:
    """Logits (1,H,W), or (0,H,W) for none -> mask and score."""
    found = logits[0] if len(logits) else logits.new_zeros(logits.shape[1:])
    inside = found > 0
    score = float(found[inside].sigmoid().mean()) if bool(inside.any()) else 0.0
    return inside.cpu().numpy(), score
