"""Greedy decoding: the generated answer and the mask of its [SEG] token.

The prompt ends with "ASSISTANT:". A trained model nearly always goes on with the one answer it was
taught, so that is read with the prompt as a draft, and its ids are taken one by one as long as each
is the most likely one: the answer is the greedy one, and mostly of one pass. From the first id that
differs on, one id is read at a time.

With `mask_state="predicting"` the mask comes from the state that emitted [SEG], the same one teacher
forcing takes; of several [SEG] the first counts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch, MaskLayout
from ..ris import RisModel, split_by_image
from .compiled import Passes
from .key_values import KeyValues
from .shared_prefix import Prefix


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers of a batch.

    ids    per image, the emitted ids up to and with the end of the sentence
    seg    (B,) bool, whether [SEG] was said
    masks  per image, logits (1,H,W) float32, or (0,H,W) where it was not
    """

    ids: list[list[int]]
    seg: Tensor
    masks: list[Tensor]


@torch.no_grad()
def generate(
    model: RisModel,
    batch: Batch,
    *,
    seg: int,
    eos: int | Collection[int],
    max_new_tokens: int = 32,
    draft: Sequence[int] = (),
    prefix: Prefix | None = None,
    passes: Passes | None = None,
) -> Generated:
    """Answer the open dialogue of each image. `seg` is a token id, `eos` one or several.

    draft   ids that the answers may start with; they change the time that it takes, not the answer
    prefix  the start of all dialogues, read before: `sam` holds their one image, `visual` is not
            read unless prompts are pointed
    passes  of `model`, where they are compiled
    """
    ends = {eos} if isinstance(eos, int) else eos
    batch, draft = batch.with_layout(), draft[: max(0, max_new_tokens - 1)]
    passes = passes or Passes(model)
    asked = _prompts(passes, batch, prefix, len(draft) + max_new_tokens)
    first, likely, agreed = _read(model, asked, draft)
    token, known = likely.gather(1, agreed), asked.known
    position = asked.start + asked.lengths + agreed

    said = likely.tolist()  # the ids are all that is read of the device
    right = [_agreement(row, draft) for row in said]
    ids = [_ended(row[: n + 1], ends)[:max_new_tokens] for row, n in zip(said, right, strict=True)]
    after = int(model.mask_state == "at_seg")  # the state in which [SEG] has just been read
    later: list[Tensor] = []  # (B,D) of each step
    while True:
        closed = all(len(row) >= max_new_tokens or row[-1] in ends for row in ids)
        places = {k: row.index(seg) + after for k, row in enumerate(ids) if seg in row}
        if closed and all(place <= right[k] + len(later) for k, place in places.items()):
            break
        state, token = passes.step(token, position, known)
        later.append(state)
        if closed:  # the last id was read for the sake of its mask
            continue
        position = position + 1
        for row, (value,) in zip(ids, token.tolist(), strict=True):
            if len(row) < max_new_tokens and row[-1] not in ends:
                row.append(value)

    device = token.device
    found = torch.tensor([k in places for k in range(len(ids))], device=device)
    spoken = [
        first[k, place] if place <= right[k] else later[place - right[k] - 1][k]
        for k, place in places.items()
    ]
    mine = torch.stack(spoken) if spoken else first[:0, 0]
    logits = model.masks_of(mine, MaskLayout.of(batch, [*places]), batch)
    return Generated(ids, found, split_by_image(logits, [*places], batch.sizes))


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts that are to be read.

    embeds   (B,L,D), padded on the right
    lengths  (B,1) real positions of it
    start    slot of the first; what comes before is in `known`
    first    (B,L) positions where they are not the slots, of prompts that start at slot 0
    """

    embeds: Tensor
    lengths: Tensor
    start: int
    known: KeyValues
    first: Tensor | None = None


def _prompts(passes: Passes, batch: Batch, prefix: Prefix | None, more: int) -> _Prompts:
    """Of `batch`, after which at most `more` positions follow."""
    rows, model = len(batch.ids), passes.model
    if prefix is None:
        merged = model.merged(batch)
        known = passes.buffers(rows, merged.embeds.shape[1] + more)
        known.skipped = model.skipped(batch.visual.grid)
        return _Prompts(merged.embeds, merged.lengths[:, None], 0, known, merged.positions)
    embeds = model.embedded(batch.ids[:, prefix.ids :])
    known = prefix.begin(passes, rows, embeds.shape[1] + more)
    return _Prompts(embeds, batch.lengths[:, None] - prefix.ids, prefix.length, known)


def _read(model: RisModel, asked: _Prompts, draft: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Each prompt and, after it, the draft of K ids, in one pass.

    Returns the states (B,K+1,D) from the last id of the prompt on, the id (B,K+1) that each makes
    most likely, and how many ids (B,1) of the draft these agree with.
    """
    device, start = asked.embeds.device, asked.start
    count = torch.arange(len(draft) + 1, device=device)
    given = torch.tensor(draft, dtype=torch.int64, device=device) if draft else count[:0]
    drafted = model.embedded(given).expand(len(asked.embeds), -1, -1)
    embeds = F.pad(asked.embeds, (0, 0, 0, len(draft)))
    place = (asked.lengths + count[:-1])[..., None]
    embeds = embeds.scatter(1, place.expand_as(drafted), drafted)
    position = torch.arange(start, start + embeds.shape[1], device=device)[None] if start else None
    first = asked.first
    if first is not None:  # the draft follows the text
        first = torch.cat([first, first[:, -1:] + 1 + count[:-1]], dim=1)
    states = asked.known.read(model.lm, embeds, position, first)
    place = (asked.lengths - 1 + count)[..., None]
    states = states.gather(1, place.expand(-1, -1, states.shape[2]))
    likely = model.scores(states).argmax(2)
    agreed = (likely[:, :-1] == given).long().cumprod(1).sum(1, keepdim=True)
    return states, likely, agreed


def _agreement(said: Sequence[int], draft: Sequence[int]) -> int:
    """Leading ids that are those of the draft."""
    pairs = enumerate(zip(said, draft, strict=False))
    return next((n for n, (one, other) in pairs if one != other), len(draft))


def _ended(said: list[int], ends: Collection[int]) -> list[int]:
    """Up to and with the first end of the sentence."""
    end = next((n for n, token in enumerate(said) if token in ends), len(said))
    return said[: end + 1]
