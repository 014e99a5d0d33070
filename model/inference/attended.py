"""Attention of an answer: of its [SEG] over the visual tokens.

The product's kernels never build attention matrices. Here the rest of each dialogue, whose start is
read already, goes through the language model once more; beside every layer's own attention the
weights of the one position are computed that the mask comes from, softmax(q K^T / sqrt(d)) in
float32. The mean over the heads and the last layers is what is told. It says where the model reads,
not why it answers so: a token can pass on what it took from others before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..ris import RisModel
from .compiled import Passes
from .shared_prefix import Prefix

LAST = 4  # layers, at most
NAME = "svp_attended"  # of the attention function, among those of transformers


@torch.no_grad()
def visual_attention(model: RisModel, batch: Batch, prefix: Prefix, *, last: int = LAST) -> Tensor:
    """(S,K) float32 attention of each [SEG]'s state to the K visual tokens, mean over the heads of the
    `last` layers.

    What is missing of 1 goes to the text. With `mask_state="predicting"` it is of the position before
    [SEG]. batch, prefix: as `reply_after` takes them.
    """
    layout = batch.layout
    ids = batch.ids[:, prefix.ids : layout.segs[1] + 1]
    known = prefix.begin(Passes(model), len(ids), ids.shape[1])
    position = prefix.length + torch.arange(ids.shape[1], device=ids.device)[None]
    col = batch.seg_col - prefix.ids - int(model.mask_state == "predicting")
    with _noted(model.lm, batch.seg_row, col) as weights:
        known.read(model.lm, model.embedded(ids), position)
    mean = torch.stack(weights[-last:]).mean((0, 2))  # of (layers,S,heads,slots)
    return mean[:, layout.slot : layout.slot + prefix.tokens]


@contextmanager
def _noted(lm: Any, row: Tensor, col: Tensor) -> Iterator[list[Tensor]]:
    """While open, every layer appends the weights (S,heads,slots) of the queries (row, col) (S,)."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found: list[Tensor] = []

    def noting(
        layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **more: Any
    ) -> tuple[Tensor, None]:
        mine, keys = query[row, :, col].float(), key[row].float()  # (S,heads,d), (S,kinds,slots,d)
        keys = keys.repeat_interleave(mine.shape[1] // keys.shape[1], dim=1)
        scores = torch.einsum("shd,shkd->shk", mine, keys) * more["scaling"]
        seen = mask.expand(len(query), -1, -1, -1)[row, 0, col]
        found.append(scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1))
        return sdpa_attention_forward(layer, query, key, value, mask, **more)

    config, was = lm.config, lm.config._attn_implementation
    AttentionInterface.register(NAME, noting)
    config._attn_implementation = NAME
    try:
        yield found
    finally:
        config._attn_implementation = was
