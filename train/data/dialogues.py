"""Dialogue as token ids, labels and [SEG] positions, built from segments.

    A chat between ... questions. USER: The <im_start><image><im_end> provides an overview of the
    picture.\n<question> ASSISTANT: <answer></s>USER: <question> ASSISTANT: <answer></s>

(template llava_v1 of GLaMM and LISA; the words around the image are the vocabulary's `wording`. A
model with a chat template of its own is asked by that: chat_template.py.)
Supervised are the answers and their </s>; an answer holds [SEG], or [REJ] where nothing is meant. The
segments are known, so labels and [SEG] positions need no second tokenisation; nothing is ever cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...model.batch import IGNORE
from ...pipeline.display import quote
from ...pipeline.errors import DataError
from .prompts import (
    EOS,
    GLAMM,
    IM_END,
    IM_START,
    REJ,
    SEG,
    SYSTEM,
    Segment,
    Turn,
    Wording,
    answer_segments,
    fixed_turn,
)
from .prompts import IMAGE as _IMAGE
from .tokenizer import IMAGE, Vocabulary

# GLaMM's model_max_length (mbzuai-oryx/groundingLMM train_ft.py). It cuts the text at 1536 - 575 ids
# (dataset/dataset.py, custom_collate_fn): its 576 visual tokens take the place of one id.
MAX_LENGTH = 1536
MAX_IDS = MAX_LENGTH - 576 + 1
FEWER = "use fewer sentences per image (data.sentences_per_image)"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One sequence before the image is put in.

    ids     text ids, `IMAGE` once
    labels  the id where supervised, else `IGNORE`; aligned with ids, not shifted
    slot    index of `IMAGE`
    seg     index of each [SEG], ascending
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    slot: int
    seg: tuple[int, ...]

    @property
    def supervised(self) -> int:
        """Number of supervised ids."""
        return len(self.labels) - self.labels.count(IGNORE)


def build_dialogue(vocab: Vocabulary, turns: Sequence[Turn], *, limit: int = MAX_IDS) -> Dialogue:
    """Encode `turns` (at least one; only the last may be open).

    Raises DataError: a question or answer with a special token in it, or more than `limit` ids.
    """
    special = {
        IM_START: vocab.im_start,
        _IMAGE: IMAGE,
        IM_END: vocab.im_end,
        SEG: vocab.seg,
        EOS: vocab.eos,
    }
    if vocab.rej is not None:
        special[REJ] = vocab.rej
    if vocab.chat is None:
        assert vocab.bos is not None
        ids, labels = [vocab.bos], [IGNORE]
        pieces, encode = segments(turns, vocab.wording, vocab.system), vocab.encode
    else:
        ids, labels = [], []
        for turn in turns:
            said = answer_segments(turn.answer or "")
            vocab.require_plain(turn.question, *(s.text for s in said if not s.special))
        pieces, encode = vocab.chat.segments(turns, vocab.wording), vocab.encode_as_is
    for text, is_special, supervised in pieces:
        new = (special[text],) if is_special else encode(text)
        ids.extend(new)
        labels.extend(new if supervised else [IGNORE] * len(new))
    if len(ids) > limit:
        raise DataError(
            f"a dialogue of {len(turns)} turns has {len(ids)} ids, more than the {limit} that fit "
            f"beside the visual tokens: {'shorten the expression' if len(turns) == 1 else FEWER} "
            f"(it starts {quote(turns[0].question)})"
        )
    seg = tuple(place for place, token in enumerate(ids) if token == vocab.seg)
    return Dialogue(tuple(ids), tuple(labels), ids.index(IMAGE), seg)


def usual_answer(vocab: Vocabulary) -> tuple[int, ...]:
    """Ids of the answer of protocol `full` but for its end: what a model is expected to say."""
    labels = build_dialogue(vocab, (fixed_turn("it", vocab.wording),)).labels
    return tuple(label for label in labels if label != IGNORE)[:-1]


def segments(
    turns: Sequence[Turn], wording: Wording = GLAMM, system: str | None = None
) -> Iterator[Segment]:
    """The dialogue in pieces; their texts joined are the prompt.

    system  in the place of Vicuna's sentence; "": nothing
    """
    yield Segment(f"{SYSTEM if system is None else system} USER: {wording.before}")
    for token in (IM_START, _IMAGE, IM_END):
        yield Segment(token, special=True)
    opening = wording.after
    for turn in turns:
        yield Segment(f"{opening}{turn.question} ASSISTANT: ")
        opening = "USER: "
        if turn.answer is not None:
            yield from answer_segments(turn.answer)
            yield Segment(EOS, special=True, supervised=True)


class Texts(NamedTuple):
    """Dialogues of a batch, padded on the right: the text fields of `model.batch.Batch`."""

    ids: Tensor  # (B,T) int64
    lengths: Tensor  # (B,)
    labels: Tensor  # (B,T), IGNORE on padding
    slot: Tensor  # (B,)
    seg_row: Tensor  # (S,)
    seg_col: Tensor  # (S,)


def collate(dialogues: Sequence[Dialogue], pad: int) -> Texts:
    """Pad dialogues to one length; [SEG] positions sorted by dialogue, then by turn."""
    longest = max(len(d.ids) for d in dialogues)
    ids = torch.full((len(dialogues), longest), pad, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    for row, dialogue in enumerate(dialogues):
        ids[row, : len(dialogue.ids)] = torch.tensor(dialogue.ids)
        labels[row, : len(dialogue.ids)] = torch.tensor(dialogue.labels)
    seg = [(row, col) for row, d in enumerate(dialogues) for col in d.seg]
    return Texts(
        ids,
        torch.tensor([len(d.ids) for d in dialogues]),
        labels,
        torch.tensor([d.slot for d in dialogues]),
        torch.tensor([row for row, _ in seg], dtype=torch.int64),
        torch.tensor([col for _, col in seg], dtype=torch.int64),
    )
