"""Budgets that know the question: of each dialogue, the superpixels that its words may be about.

The scores are products of the question's mean word embedding with the projected tokens, before the
language model reads anything (`projectors.token_answer`). What is left out becomes one token, the
rest, as with any budget. Dialogues about one image then see other tokens, so they share no start.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from ..projectors.token_answer import question_words
from ..ris import RisModel


class Asked(NamedTuple):
    """A batch in which every dialogue has its own tokens.

    kept  (B,N) bool, the superpixels of its image that each keeps: its first tokens, in their order
    """

    batch: Batch
    kept: Tensor


@torch.no_grad()
def asked(model: RisModel, batch: Batch, most: int) -> Asked:
    """Keep the `most` likely superpixels of each dialogue, and the others as one token.

    batch  B dialogues with one [SEG] each, about B images or about one that it holds once
    """
    answers, batch = model.projector.answers, batch.with_layout()
    assert answers is not None, "asked of a model with token answers"
    assert len(batch.seg_row) == len(batch.ids), "one [SEG] per dialogue"
    tokens, valid = model.tokens(batch)
    image = batch.seg_row if len(tokens) > 1 else torch.zeros_like(batch.seg_row)
    scores = answers(question_words(batch, model.embedded(batch.ids)), tokens, image, words=True)
    scores = scores.masked_fill(~valid[image], -torch.inf)
    best = scores.topk(min(most, scores.shape[1]), dim=1).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True) & valid[image]
    return Asked(_selected(batch, image, kept), kept)


@dataclass(frozen=True)
class _Places:
    """Places of superpixels: those kept first, then the rest of their image as one.

    order (B,N) int64; count (B,) of those kept; more (B,) bool, whether there is a rest
    """

    order: Tensor
    count: Tensor
    more: Tensor

    def put(self, values: Tensor, rest: Tensor) -> Tensor:
        """Values (B,N,...) of superpixels and of the rest (B,...) at their places, 0 on padding."""
        index = self.order.view(*self.order.shape, *[1] * (values.dim() - 2)).expand_as(values)
        out = torch.cat([values.gather(1, index), torch.zeros_like(values[:, :1])], dim=1)
        place = torch.arange(out.shape[1], device=out.device)[None]
        last = (place == self.count[:, None]) & self.more[:, None]
        out = torch.where(_wide(last, out), rest[:, None].to(out.dtype), out)
        out = out.masked_fill(~_wide(place < (self.count + self.more)[:, None], out), 0)
        return out[:, : int((self.count + self.more).max())]


def _wide(flags: Tensor, values: Tensor) -> Tensor:
    return flags.view(*flags.shape, *[1] * (values.dim() - 2))


def _selected(batch: Batch, image: Tensor, kept: Tensor) -> Batch:
    """Each dialogue with the superpixels it keeps of its `image` (B,), and the rest."""
    visual = batch.visual
    assert visual.cover is not None and visual.masks is not None and visual.valid is not None
    rest = visual.valid[image] & ~kept
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    places = _Places(order, kept.sum(dim=1), rest.any(dim=1))
    cover, masks = visual.cover[image], visual.masks[image]
    # As a budget of the cache: what they cover together of a patch, and the union of their masks.
    union = (cover.float() * _wide(rest, cover)).sum(dim=1).clamp(max=1)
    total = places.count + places.more
    means = None if visual.means is None else visual.means[image]
    found = replace(
        visual,
        patches=visual.patches[image],
        cover=places.put(cover, union),
        masks=places.put(masks, (masks * _wide(rest, masks)).amax(dim=1)),
        valid=torch.arange(int(total.max()), device=kept.device) < total[:, None],
        means=None if means is None else places.put(means, _mean(means, cover, rest)),
        real=None,
    )
    return replace(batch, visual=found)


def _mean(means: Tensor, cover: Tensor, rest: Tensor) -> Tensor:
    """(B,C) mean of the rest's means (B,N,C), by what they cover."""
    weight = cover.float().sum(dim=2) * rest
    share = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("bn,bnc->bc", share, means.float())
