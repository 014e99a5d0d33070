"""Shared-prefix inference: compute the common KV cache of an image once.

In an evaluation an image is asked about ten times or more, and up to the expression every dialogue
is the same: system prompt, visual tokens, the start of the question. Causal attention makes the
keys and values of that start independent of what follows, so they are computed once and only the
rest of each dialogue, up to its last [SEG], goes through the language model. The masks are those of
`RisModel.predict` but for rounding.
"""

import torch
from torch import Tensor

from .batch import Batch
from .merge import merge
from .ris import RisModel, split_by_image


@torch.no_grad()
def predict_shared(model: RisModel, batch: Batch) -> list[Tensor]:
    """Per dialogue, logits (n,H,W) float32; the mask is logits > 0.

    batch  B dialogues about one image: `visual` and `sam` hold it once (leading size 1). Every
           dialogue has a [SEG], after <image>. Raises ValueError if not.
    """
    batch = batch.with_layout()
    before = 1 if model.mask_state == "predicting" else 0
    start = _common(batch, before)
    text = model.embedded(batch.ids[:, : _end(batch)])
    tokens, valid = model.tokens(batch)
    length = torch.full_like(batch.slot[:1], start)
    longest = start - 1 + model.visual_counts(batch)[0]
    merged = merge(text[:1, :start], length, batch.slot[:1], tokens, valid, longest=longest)
    read = model.lm.model(inputs_embeds=merged.embeds, use_cache=True).past_key_values
    read.batch_repeat_interleave(len(batch.ids))
    rest = model.lm.model(inputs_embeds=text[:, start:], past_key_values=read, use_cache=True)
    states = rest.last_hidden_state[batch.seg_row, batch.seg_col - start - before]
    (mine,) = batch.layout.sizes
    groups = model.masks_of(states, torch.zeros_like(batch.seg_row), batch, [mine])
    return split_by_image(groups, batch.layout.images, batch.sizes, text.device)


def _common(batch: Batch, before: int) -> int:
    """Number of ids that all dialogues share, short of the first state that a mask needs."""
    if len(batch.visual.patches) != 1 or len(batch.sam) != 1:
        raise ValueError("the dialogues are about one image, given once")
    layout = batch.layout
    if len(set(layout.images)) != len(batch.ids):
        raise ValueError("every dialogue needs a [SEG]")
    start = min(layout.shared, layout.segs[0] - before)
    if start <= layout.slot:
        raise ValueError("the dialogues differ before <image>")
    return start


def _end(batch: Batch) -> int:
    """Ids up to and with the last [SEG] of any dialogue; the answers' ends are not needed."""
    return batch.layout.segs[1] + 1
