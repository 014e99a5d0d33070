"""Shared-prefix inference: what a model reads of an image is read once.

In an evaluation an image is asked about ten times or more, and up to the expression every dialogue
is the same: system prompt, visual tokens, the start of the question. Causal attention makes the
keys and values of that start independent of what follows, so they are computed once and only the
rest of each dialogue, up to its last [SEG], goes through the language model. The masks are those of
`RisModel.predict` but for rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch
from ..merge import Merged, merge
from ..ris import Reply, RisModel
from .compiled import TEXT, Passes
from .key_values import KeyValues


@dataclass(frozen=True, slots=True)
class Prefix:
    """The start of all dialogues about one image, as the language model has read it.

    ids     text ids of it, <image> among them
    visual  (1,K,D) visual tokens in the place of <image>
    known   keys and values, of one row
    """

    ids: int
    visual: Tensor
    known: KeyValues

    @property
    def tokens(self) -> int:
        """Number of the visual tokens."""
        return self.visual.shape[1]

    @property
    def length(self) -> int:
        """Positions."""
        return self.ids - 1 + self.tokens

    def begin(self, passes: Passes, rows: int, more: int) -> KeyValues:
        """Keys and values of `rows` sequences that start so, with slots for `more` positions."""
        known = passes.buffers(rows, self.length + more)
        known.start_with(self.known)
        return known


@torch.no_grad()
def read_prefix(model: RisModel, batch: Batch, ids: int) -> Prefix:
    """Read the image of `batch`, which holds it once, and the first `ids` of its first dialogue."""
    batch = batch.with_layout()
    tokens, valid = model.tokens(batch)
    count = model.visual_counts(batch, valid)[0]
    merged = model.placed(_merged(model, batch, ids, tokens, valid, count), batch.visual.grid)
    return _read(model, ids, tokens[:, :count], merged, model.skipped(batch.visual.grid))


@torch.no_grad()
def read_blank(model: RisModel, batch: Batch, ids: int, count: int) -> Prefix:
    """As `read_prefix`, with `count` visual tokens of zeros: what it costs to read as many."""
    tokens = torch.zeros(1, count, model.lm.config.hidden_size, device=batch.ids.device)
    valid = torch.ones(1, count, dtype=torch.bool, device=tokens.device)
    return _read(model, ids, tokens, _merged(model, batch, ids, tokens, valid, count), 0)


def _merged(
    model: RisModel, batch: Batch, ids: int, tokens: Tensor, valid: Tensor, count: int
) -> Merged:
    slot, text = batch.slot[:1], model.embedded(batch.ids[:1, :ids])
    length = torch.full_like(slot, ids)
    return merge(text, length, slot, tokens, valid, longest=ids - 1 + count)


def _read(model: RisModel, ids: int, tokens: Tensor, merged: Merged, skipped: int) -> Prefix:
    known = KeyValues(model.lm, 1, ids - 1 + tokens.shape[1])
    known.skipped = skipped
    known.read(model.lm, merged.embeds, first=merged.positions)
    return Prefix(ids, tokens, known)


@torch.no_grad()
def reply_after(passes: Passes, batch: Batch, prefix: Prefix) -> Reply:
    """As `RisModel.reply`, one image per dialogue.

    batch  B dialogues that start as `prefix`. Every dialogue has a [SEG], after the prefix
    """
    layout, model = batch.layout, passes.model
    ids = batch.ids[:, prefix.ids : layout.segs[1] + 1]  # the answers' ends are not needed
    known = prefix.begin(passes, len(ids), ids.shape[1] + TEXT)
    row, col = batch.seg_row, batch.seg_col - prefix.ids - 1
    if model.mask_state == "predicting":
        before = mine = passes.rest(ids, prefix.length, row, col, known)
    else:
        rows, cols = row.repeat(2), torch.cat([col, col + 1])
        before, mine = passes.rest(ids, prefix.length, rows, cols, known).chunk(2)
    valid = torch.ones(1, prefix.tokens, dtype=torch.bool, device=before.device)
    return Reply(before, mine, prefix.visual, valid)


def predict_shared(model: RisModel, batch: Batch) -> list[Tensor]:
    """As `RisModel.predict`, of dialogues as those of `reply_shared`."""
    batch = batch.with_layout()
    return model.drawn(reply_shared(model, batch), batch)


def reply_shared(model: RisModel, batch: Batch) -> Reply:
    """`reply_after` what the dialogues share.

    batch  B dialogues about one image: `visual` and `sam` hold it once (leading size 1). Every
           dialogue has a [SEG], after <image>. Raises ValueError if not.
    """
    batch = batch.with_layout()
    start = _common(batch)
    return reply_after(Passes(model), batch, read_prefix(model, batch, start))


def _common(batch: Batch) -> int:
    """Number of ids that all dialogues share, short of the first state that an answer needs."""
    if len(batch.visual.patches) != 1 or len(batch.sam) != 1:
        raise ValueError("the dialogues are about one image, given once")
    layout = batch.layout
    if len(set(layout.masks.images)) != len(batch.ids):
        raise ValueError("every dialogue needs a [SEG]")
    start = min(layout.shared, layout.segs[0] - 1)
    if start <= layout.slot:
        raise ValueError("the dialogues differ before <image>")
    return start
