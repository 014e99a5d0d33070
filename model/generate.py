"""Greedy decoding with a KV cache: the generated answer and the mask of its [SEG] token.

The prompt ends with "ASSISTANT:". With `mask_state="predicting"` the mask comes from the state that
emitted [SEG], the same one teacher forcing takes; of several [SEG] the first counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Batch, by_size
from .merge import Merged
from .ris import RisModel, split_by_image


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
    model: RisModel, batch: Batch, *, seg: int, eos: int, max_new_tokens: int = 32
) -> Generated:
    """Answer the open dialogue of each image. `seg` and `eos` are token ids."""
    batch = batch.with_layout()
    embeds, real, position = _left_padded(model.merged(batch))
    padded = len(set(model.merged_lengths(batch))) > 1
    after = int(model.mask_state == "at_seg")  # the state in which [SEG] has just been read
    ids: list[list[int]] = [[] for _ in batch.sizes]
    states: list[Tensor] = []  # (B,D) of each step; the ids are all that is read of the device
    cache = None
    while True:
        step = len(states)
        closed = step >= max_new_tokens or all(said[-1:] == [eos] for said in ids)
        places = {k: said.index(seg) + after for k, said in enumerate(ids) if seg in said}
        if closed and max(places.values(), default=-1) < step:
            break
        out = model.lm.model(
            inputs_embeds=embeds, attention_mask=_allowed(real, embeds) if padded else None,
            position_ids=position, past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = out.past_key_values
        states.append(out.last_hidden_state[:, -1].clone())  # a view would keep the prompt's, too
        if closed:  # the last id was read for the sake of its mask
            continue
        token = model.lm.lm_head(states[-1]).argmax(1)
        for said, value in zip(ids, token.tolist(), strict=True):
            if said[-1:] != [eos]:
                said.append(value)
        embeds = model.embedded(token)[:, None]
        real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
        position = position[:, -1:] + 1
    device = embeds.device
    found = torch.tensor([k in places for k in range(len(ids))], device=device)
    rows, groups = [*places], []
    if rows:
        mine = torch.stack([states[step][k] for k, step in places.items()])
        sizes = by_size(rows, batch.sizes, device)
        groups = model.masks_of(mine, torch.tensor(rows, device=device), batch, sizes)
    return Generated(ids, found, split_by_image(groups, rows, batch.sizes, device))


def _allowed(real: Tensor, embeds: Tensor) -> Tensor:
    """(B,1,Q,K) bool: the keys, of K in all, that each of the last Q positions may see."""
    size, queries = real.shape[1], embeds.shape[1]
    place = torch.arange(size, device=real.device)
    return real[:, None, None] & (place <= place[size - queries :, None])


def _left_padded(merged: Merged) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (B,L,D), which are real (B,L) bool, and positions (B,L), each ending at L - 1."""
    size = merged.embeds.shape[1]
    place = torch.arange(size, device=merged.embeds.device) - (size - merged.lengths)[:, None]
    index = place.clamp(min=0)
    embeds = merged.embeds.gather(1, index[..., None].expand_as(merged.embeds))
    return embeds, place >= 0, index
