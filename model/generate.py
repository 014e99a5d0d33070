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
    size, device = len(embeds), embeds.device
    padded = len(set(model.merged_lengths(batch))) > 1
    emitted: list[list[int]] = [[] for _ in batch.sizes]
    states = embeds.new_zeros(size, embeds.shape[2])
    # Kept twice: the device decides what a state is taken for, the host when to end. Of the device
    # it reads the ids, once for each.
    found = torch.zeros(size, dtype=torch.bool, device=device)
    ended, wanted = found.clone(), found.clone()
    said, over, left = [False] * size, [False] * size, False
    cache = None
    for _ in range(max_new_tokens):
        out = model.lm.model(
            inputs_embeds=embeds, attention_mask=_allowed(real, embeds) if padded else None,
            position_ids=position, past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache, last = out.past_key_values, out.last_hidden_state[:, -1]
        states = torch.where(wanted[:, None], last, states)  # `at_seg`: [SEG] has just been read
        token = model.lm.lm_head(last).argmax(1)
        first = (token == seg) & ~ended & ~found
        if model.mask_state == "predicting":
            states = torch.where(first[:, None], last, states)
            wanted = torch.zeros_like(found)
        else:
            wanted = first
        found, ended = found | first, ended | (token == eos)

        left = False
        for k, value in enumerate(token.tolist()):
            if not over[k]:
                emitted[k].append(value)
                left |= value == seg and not said[k] and model.mask_state == "at_seg"
                said[k] |= value == seg
            over[k] |= value == eos
        if all(over) and not left:
            break
        embeds = model.embedded(token)[:, None]
        real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
        position = position[:, -1:] + 1
    rows = [k for k, one in enumerate(said) if one]
    row = torch.tensor(rows, dtype=torch.int64, device=device)
    sizes = by_size(rows, batch.sizes, device)
    groups = model.masks_of(states[row], row, batch, sizes) if rows else []
    return Generated(emitted, found, split_by_image(groups, rows, batch.sizes, device))


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
