"""Greedy decoding with a KV cache: the generated answer and the mask of its [SEG] token.

The prompt ends with "ASSISTANT:". With `mask_state="predicting"` the mask comes from the state that
emitted [SEG], the same one teacher forcing takes; of several [SEG] the first counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Batch
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
    embeds, attention, position = _left_padded(model.merged(batch))
    emitted: list[list[int]] = [[] for _ in batch.sizes]
    found = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
    ended, wanted, states = (
        found.clone(),
        found.clone(),
        embeds.new_zeros(len(embeds), embeds.shape[2]),
    )
    cache = None
    for _ in range(max_new_tokens):
        out = model.lm.model(
            inputs_embeds=embeds, attention_mask=attention, position_ids=position,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache, last = out.past_key_values, out.last_hidden_state[:, -1]
        states[wanted] = last[wanted]  # `at_seg`: [SEG] has just been read
        token = model.lm.lm_head(last).argmax(1)
        for answer, value, over in zip(emitted, token.tolist(), ended.tolist(), strict=True):
            if not over:
                answer.append(value)
        first = (token == seg) & ~ended & ~found
        if model.mask_state == "predicting":
            states[first] = last[first]
            wanted = torch.zeros_like(found)
        else:
            wanted = first
        found, ended = found | first, ended | (token == eos)
        if bool(ended.all()) and not bool(wanted.any()):
            break
        embeds = model.lm.get_input_embeddings()(token)[:, None]
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], 1)
        position = position[:, -1:] + 1
    row = found.nonzero()[:, 0]
    groups = model.masks_of(states[row], row, batch) if len(row) else []
    return Generated(emitted, found, split_by_image(groups, row, batch.sizes))


def _left_padded(merged: Merged) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (B,L,D), attention mask (B,L) int64 and positions (B,L), each ending at L - 1."""
    size = merged.embeds.shape[1]
    place = torch.arange(size, device=merged.embeds.device) - (size - merged.lengths)[:, None]
    index = place.clamp(min=0)
    embeds = merged.embeds.gather(1, index[..., None].expand_as(merged.embeds))
    return embeds, (place >= 0).long(), index
