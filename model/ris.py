"""The referring-segmentation model: visual tokens -> language model -> [SEG] state -> mask.

The mask prompt is the final hidden state *before* [SEG], the one that predicts it, as in GLaMM and
LISA (`mask_state="at_seg"` takes the next one). Only `last_hidden_state` is asked for, and only
supervised positions reach the vocabulary head. Indices come from the merged sequence, so any number
of visual tokens works. The mask path from the low-resolution logits on is float32.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch import IGNORE, Batch
from .losses import Losses, mask_losses
from .mask_head import MaskHead, upscale
from .merge import Merged, merge
from .projectors.base import MaskInput, Projector

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

MaskState = Literal["predicting", "at_seg"]


def prompt_projector(llm_dim: int, width: int) -> nn.Sequential:
    """The L-P projector: state (.,D) -> SAM prompt (.,width). GLaMM.py:73-79 without its dropout(0).

    17,830,144 parameters at 4096 -> 256.
    """
    return nn.Sequential(nn.Linear(llm_dim, llm_dim), nn.ReLU(), nn.Linear(llm_dim, width))


@dataclass(frozen=True, slots=True)
class Group:
    """Masks whose photographs have one size: `index` (n,) into the batch's masks, logits (n,H,W)."""

    index: Tensor
    logits: Tensor


class RisModel(nn.Module):
    """A multimodal language model that answers with masks.

    lm          LLaMA-family causal language model of transformers
    projector   patches (and superpixels) -> visual tokens
    to_prompt   state -> SAM prompt
    mask_head   prompt + SAM embedding -> mask
    """

    def __init__(
        self,
        lm: "LlamaForCausalLM",
        projector: Projector,
        mask_head: MaskHead,
        *,
        mask_state: MaskState = "predicting",
    ) -> None:
        super().__init__()
        self.lm: Any = lm
        self.projector = projector
        self.to_prompt = prompt_projector(lm.config.hidden_size, mask_head.width)
        self.mask_head = mask_head
        self.mask_state: MaskState = mask_state

    def forward(self, batch: Batch) -> Losses:
        """Losses of a batch with targets, as sums; teacher-forced."""
        merged = self.merged(batch)
        states = self.states(merged)
        ce, tokens = self.cross_entropy(batch, merged, states)
        groups = self._masks(batch, merged, states)
        targets = [_targets(batch, group) for group in groups]
        bce, dice = mask_losses([group.logits for group in groups], targets)
        return Losses(ce, bce, dice, tokens, len(batch.seg_row))

    def predict(self, batch: Batch) -> list[Tensor]:
        """Per image, logits (n,H,W) float32 at its own size; the mask is logits > 0."""
        merged = self.merged(batch)
        groups = self._masks(batch, merged, self.states(merged))
        return split_by_image(groups, batch.seg_row, batch.sizes)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visual tokens (B,K,D) and which are real (B,K) bool."""
        visual = batch.visual
        masks = None
        if visual.cover is not None and visual.masks is not None:
            masks = MaskInput(visual.cover, visual.masks)
        tokens, valid = self.projector(
            visual.patches,
            visual.grid,
            cls=visual.cls,
            multi=visual.multi,
            masks=masks,
            mask_valid=visual.valid,
            means=visual.means,
        )
        return tokens, valid

    def merged(self, batch: Batch) -> Merged:
        """Text embeddings with the visual tokens in place of <image>."""
        tokens, valid = self.tokens(batch)
        text = self.lm.get_input_embeddings()(batch.ids.clamp(min=0))
        return merge(text, batch.lengths, batch.slot, tokens, valid)

    def states(self, merged: Merged) -> Tensor:
        """Final hidden states (B,L,D), after the last norm; garbage on the padding at the right."""
        out = self.lm.model(inputs_embeds=merged.embeds, use_cache=False)
        states: Tensor = out.last_hidden_state
        return states

    def cross_entropy(self, batch: Batch, merged: Merged, states: Tensor) -> tuple[Tensor, int]:
        """Sum over the supervised tokens, float32, and how many they are; only they reach the head."""
        row, col = (batch.labels != IGNORE).nonzero(as_tuple=True)
        before = states[row, merged.index(row, col) - 1]  # the state that predicts this token
        logits = self.lm.lm_head(before).float()
        return F.cross_entropy(logits, batch.labels[row, col], reduction="sum"), len(row)

    def masks_of(self, states: Tensor, row: Tensor, batch: Batch) -> list[Group]:
        """Masks for mask states (S,D) of images `row` (S,), grouped by photograph size."""
        low = self.mask_head(self.to_prompt(states), row, batch.sam)
        by_size = defaultdict(list)
        for k, image in enumerate(row.tolist()):
            by_size[batch.sizes[image]].append(k)
        side = self.mask_head.image_size
        groups = []
        for size, members in by_size.items():
            index = torch.tensor(members, device=low.device)
            groups.append(Group(index, upscale(low[index], side, size)))
        return groups

    def _masks(self, batch: Batch, merged: Merged, states: Tensor) -> list[Group]:
        place = merged.index(batch.seg_row, batch.seg_col)
        if self.mask_state == "predicting":
            place = place - 1
        return self.masks_of(states[batch.seg_row, place], batch.seg_row, batch)


def split_by_image(
    groups: list[Group], row: Tensor, sizes: tuple[tuple[int, int], ...]
) -> list[Tensor]:
    """Masks (n,H,W) per image, in the order of the batch's masks."""
    flat: dict[int, Tensor] = {}
    for group in groups:
        flat |= dict(zip(group.index.tolist(), group.logits, strict=True))
    out: list[list[Tensor]] = [[] for _ in sizes]
    for k, image in enumerate(row.tolist()):
        out[image].append(flat[k])
    return [
        torch.stack(found) if found else row.new_zeros(0, *size, dtype=torch.float32)
        for found, size in zip(out, sizes, strict=True)
    ]


def _targets(batch: Batch, group: Group) -> Tensor:
    """Targets (n,H,W) of the masks of `group`."""
    per_image = batch.targets()
    first = torch.searchsorted(batch.seg_row, batch.seg_row, right=False)
    turn = (torch.arange(len(batch.seg_row), device=first.device) - first).tolist()
    rows = batch.seg_row.tolist()
    return torch.stack([per_image[rows[k]][turn[k]] for k in group.index.tolist()])
