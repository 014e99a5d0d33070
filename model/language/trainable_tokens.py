"""Train only the rows of added tokens in the embedding and in the vocabulary head.

At 32,007 x 4096 the two matrices are 262 of about 416 million trained numbers; their optimizer
state does not fit a 24 GB card. With the matrices frozen and a few rows beside them, it is 57
thousand. The rows answer for their ids in place of the frozen ones; `fold_rows` writes them back.
A tied model has one matrix and one set of rows, which both sides use.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...pipeline.errors import ConfigError


class _Rows(nn.Module):
    """A frozen matrix `base.weight` (V,D) and trained float32 `rows` (k,D) for `ids`."""

    ids: Tensor

    def __init__(
        self, base: nn.Module, ids: Sequence[int], rows: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        weight: Any = base.weight
        if sorted(set(ids)) != list(ids) or not ids or not 0 <= ids[0] <= ids[-1] < len(weight):
            raise ConfigError(f"new rows {list(ids)}: need rising ids in 0..{len(weight) - 1}")
        self.base = base.requires_grad_(False)
        device = weight.device
        self.register_buffer("ids", torch.tensor(ids, device=device), persistent=False)
        self.rows = nn.Parameter(weight.detach()[self.ids].float()) if rows is None else rows

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The wrapped module with the trained rows written into it."""
        weight: Any = self.base.weight
        weight[self.ids] = self.rows.to(weight.dtype)
        return self.base


class EmbeddingRows(_Rows):
    """(...,) ids -> (...,D), as the wrapped embedding."""

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.base(ids)
        rows = self.rows
        if (scale := getattr(self.base, "embed_scale", None)) is not None:  # Gemma's embedding
            rows = rows * scale
        place = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        ours = self.ids[place] == ids
        return torch.where(ours[..., None], rows[place].to(out.dtype), out)


class HeadRows(_Rows):
    """(...,D) states -> (...,V) logits, as the wrapped linear without bias."""

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.base(states)
        ours = nn.functional.linear(states, self.rows.to(states.dtype))
        return logits.index_copy(-1, self.ids, ours.to(logits.dtype))


def train_rows(lm: Any, ids: Sequence[int]) -> None:
    """Wrap embedding and head of `lm` in place, for the rows of token `ids` (rising).

    Rows trained so far are folded first. Raises ConfigError if an id is not in the vocabulary.
    """
    fold_rows(lm)
    embedding = EmbeddingRows(lm.get_input_embeddings(), ids)
    shared = embedding.rows if lm.config.tie_word_embeddings else None
    lm.set_input_embeddings(embedding)
    lm.set_output_embeddings(HeadRows(lm.get_output_embeddings(), ids, shared))


def fold_rows(lm: Any) -> None:
    """Undo `train_rows`, keeping what was learned. Does nothing if there are no such rows."""
    if isinstance(rows := lm.get_input_embeddings(), _Rows):
        lm.set_input_embeddings(rows.folded())
    if isinstance(rows := lm.get_output_embeddings(), _Rows):
        lm.set_output_embeddings(rows.folded())
