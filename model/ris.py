"""The referring-segmentation model: visual tokens -> language model -> [SEG] state -> mask.

The mask prompt is the final hidden state *before* [SEG], the one that predicts it, as in GLaMM and
LISA (`mask_state="at_seg"` takes the next one). Only `last_hidden_state` is asked for, and only
supervised positions reach the vocabulary head. Indices come from the merged sequence, so any number
of visual tokens works. The mask path from the low-resolution logits on is float32.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch import Batch, MaskLayout, Visual
from .language.attention import CACHE, masks_for, no_cache
from .language.families import family_of
from .losses import Losses, mask_losses
from .mask_head import MaskHead, click_codes, click_errors, click_targets, upscale
from .merge import Merged, merge, original_positions
from .mixed_precision import weights_cast
from .projectors.base import MaskInput, Projector
from .projectors.token_answer import answer_loss, question_words, shares

MaskState = Literal["predicting", "at_seg"]
MaskPrompt = Literal["projected", "pointed"]


def prompt_projector(llm_dim: int, width: int) -> nn.Sequential:
    """The L-P projector: state (.,D) -> SAM prompt (.,width). GLaMM.py:73-79 without its dropout(0).

    17,830,144 parameters at 4096 -> 256.
    """
    return nn.Sequential(nn.Linear(llm_dim, llm_dim), nn.ReLU(), nn.Linear(llm_dim, width))


class RisModel(nn.Module):
    """A multimodal language model that answers with masks.

    lm          causal language model of transformers, of a family of `language.families`
    projector   patches (and superpixels) -> visual tokens
    to_prompt   state -> SAM prompt
    mask_head   prompt + SAM embedding -> mask

    mask_prompt    projected: `to_prompt` of the state, as in GLaMM and LISA; pointed: of the visual
                   tokens, in the shares in which the state scores them, see `_pointed`
    learns_clicks  prompts are also compared with clicks on their objects (`losses.Weights.click`)
    """

    def __init__(
        self,
        lm: Any,
        projector: Projector,
        mask_head: MaskHead,
        *,
        mask_state: MaskState = "predicting",
    ) -> None:
        super().__init__()
        from .llama.decoder_layer import use_llama_layers

        use_llama_layers(lm)
        self.lm: Any = lm
        self.language = family_of(lm)
        self.visual_scale = self.language.visual_scale(lm.config)
        self.projector = projector
        self.to_prompt = prompt_projector(lm.config.hidden_size, mask_head.width)
        self.mask_head = mask_head
        self.mask_state: MaskState = mask_state
        self.mask_prompt: MaskPrompt = "projected"
        self.learns_clicks = False

    def forward(self, batch: Batch) -> Losses:
        """Losses of a batch with targets, as sums; teacher-forced."""
        batch = batch.with_layout()
        visual = self.tokens(batch)
        merged = self._merge(batch, *visual)
        states = self.states(merged)
        ce, count = self.cross_entropy(batch, merged, states)
        masks, answers = batch.layout.masks, self.projector.answers is not None
        if not masks.images:
            zero = self._no_masks(batch, states, visual)
            click, answer = (zero if has else None for has in (self.learns_clicks, answers))
            return Losses(ce, zero, zero, count, 0, click, answer)
        mine = self._seg_states(batch, merged, states)
        prompts, targets = self._prompts(mine, masks, visual), masks.targets()
        bce, dice = mask_losses(self._decoded(prompts, masks, batch), targets, masks.beyond())
        click = self._click_loss(prompts, targets, batch) if self.learns_clicks else None
        answer = self._answer_loss(batch, mine, targets, *visual) if answers else None
        return Losses(ce, bce, dice, count, len(batch.seg_row), click, answer)

    def predict(self, batch: Batch) -> list[Tensor]:
        """Per image, logits (n,H,W) float32 at its own size; the mask is logits > 0."""
        batch = batch.with_layout()
        merged = self.merged(batch)
        return self._masks(self._seg_states(batch, merged, self.states(merged)), batch)

    def reply(self, batch: Batch) -> "Reply":
        """The language model's states for each mask, teacher-forced; none is drawn."""
        batch = batch.with_layout()
        tokens, valid = self.tokens(batch)
        merged = self._merge(batch, tokens, valid)
        states = self.states(merged)
        before = states[batch.seg_row, merged.index(batch.seg_row, batch.seg_col) - 1]
        return Reply(before, self._seg_states(batch, merged, states), tokens, valid)

    def drawn(self, reply: "Reply", batch: Batch) -> list[Tensor]:
        """The masks of SAM's decoder, as those of `predict`."""
        return self._masks(reply.mine, batch)

    def _masks(self, states: Tensor, batch: Batch) -> list[Tensor]:
        masks = batch.layout.masks
        return split_by_image(self.masks_of(states, masks, batch), masks.images, batch.sizes)

    def meant(self, reply: "Reply", batch: Batch) -> Tensor:
        """Scores (S,K) float32 of the visual tokens by token answers: above 0 they are meant; -inf on
        padding.
        """
        assert self.projector.answers is not None, "asked of a model with token answers"
        owner = torch.zeros_like(batch.seg_row) if len(reply.tokens) == 1 else batch.seg_row
        scores: Tensor = self.projector.answers(reply.mine, reply.tokens, owner)
        return scores.masked_fill(~reply.valid[owner], -torch.inf)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visual tokens (B,K,D) and which are real (B,K) bool."""
        visual = batch.visual
        masks = None
        if visual.cover is not None and visual.masks is not None:
            masks = MaskInput(visual.cover, visual.masks, self._real(batch))
        tokens, valid = self.projector(
            visual.patches,
            visual.grid,
            cls=visual.cls,
            multi=visual.multi,
            masks=masks,
            mask_valid=visual.valid,
            means=visual.means,
        )
        return tokens if self.visual_scale == 1 else tokens * self.visual_scale, valid

    def merged(self, batch: Batch) -> Merged:
        """Text embeddings with the visual tokens in place of <image>."""
        return self._merge(batch, *self.tokens(batch))

    def _merge(self, batch: Batch, tokens: Tensor, valid: Tensor) -> Merged:
        text = self.embedded(batch.ids)
        longest = max(self.merged_lengths(batch, valid))
        found = merge(text, batch.lengths, batch.slot, tokens, valid, longest=longest)
        return self.placed(found, batch.visual.grid)

    def placed(self, merged: Merged, grid: tuple[int, int]) -> Merged:
        """With the positions that the projector's tokens keep, if they do."""
        places = self.projector.places(grid)
        if places is None:
            return merged
        return replace(merged, positions=original_positions(merged, places, grid[0] * grid[1]))

    def skipped(self, grid: tuple[int, int]) -> int:
        """Positions of patches without a token: what follows the image stands so much later."""
        places = self.projector.places(grid)
        return 0 if places is None else grid[0] * grid[1] - len(places)

    def embedded(self, ids: Tensor) -> Tensor:
        """Embeddings (...,D) of text ids, in the dtype of the language model's layers.

        A trained embedding is float32; passed on as it is, it would make float32 of all hidden
        states of a bfloat16 model, and a cast of each layer's every input.
        """
        found: Tensor = self.lm.get_input_embeddings()(ids.clamp(min=0))
        return found.to(self.lm.model.norm.weight.dtype)

    def merged_lengths(self, batch: Batch, valid: Tensor) -> list[int]:
        """Positions of each dialogue with its visual tokens, of which `valid` (B,K) are real."""
        counts = self.visual_counts(batch, valid)
        return [n - 1 + k for n, k in zip(batch.layout.lengths, counts, strict=True)]

    def visual_counts(self, batch: Batch, valid: Tensor) -> Sequence[int]:
        """Visual tokens of each image, of which `valid` (B,K) are real.

        Known without the device, but where the projector finds their number in the features.
        """
        fixed = self.projector.num_tokens(batch.visual.grid)
        if fixed is not None:
            return [fixed] * len(batch.visual.patches)
        if "masks" in self.projector.needs:
            assert batch.layout.superpixels is not None
            return batch.layout.superpixels
        counts: list[int] = valid.sum(1).tolist()
        return counts

    def states(self, merged: Merged) -> Tensor:
        """Final hidden states (B,L,D), after the last norm; garbage on the padding at the right."""
        from .llama.decoder_layer import prepared

        linears = prepared(self.lm)
        own: dict[str, Any] = {} if linears is None else {"linears": linears}
        own[CACHE] = cache = no_cache(self.lm)
        if merged.positions is not None:
            own["position_ids"] = merged.positions
            if cache is None:  # transformers would take a gap for the start of another text
                slots = torch.arange(merged.embeds.shape[1], device=merged.embeds.device)[None]
                own["attention_mask"] = masks_for(self.lm.config, slots, slots.shape[1])
        out = self.lm.model(inputs_embeds=merged.embeds, use_cache=False, **own)
        states: Tensor = out.last_hidden_state
        return states

    def cross_entropy(self, batch: Batch, merged: Merged, states: Tensor) -> tuple[Tensor, int]:
        """Sum over the supervised tokens, float32, and how many they are; only they reach the head."""
        row, col = batch.layout.label_row, batch.layout.label_col
        before = states[row, merged.index(row, col) - 1]  # the state that predicts this token
        logits = self.scores(before).float()
        return F.cross_entropy(logits, batch.labels[row, col], reduction="sum"), len(row)

    def scores(self, states: Tensor) -> Tensor:
        """Logits (...,V) over the vocabulary of states (...,D), as the family makes them."""
        return self.language.logits(self.lm.config, self.lm.lm_head(states))

    def rejection(self, before: Tensor, seg: int, rej: int) -> Tensor:
        """Chance (S,) float32 of the id `rej` against `seg` by the states (S,D) that predict them.

        As in GSVA, both stand at the same place of an answer. Its evaluation (LeapLabTHU/GSVA,
        model/modeling_lisa_gsva.py) takes any other most likely id for the wrong one of the two,
        which asks the truth; here only the two are compared.
        """
        scores = self.scores(before).float()
        return (scores[:, rej] - scores[:, seg]).sigmoid()

    def masks_of(self, states: Tensor, masks: MaskLayout, batch: Batch) -> Tensor:
        """Logits (S,Y,X) float32 of `masks` from their states (S,D); 0 beyond a photograph."""
        visual = self.tokens(batch) if self.mask_prompt == "pointed" else None
        return self._decoded(self._prompts(states, masks, visual), masks, batch)

    def _decoded(self, prompts: Tensor, masks: MaskLayout, batch: Batch) -> Tensor:
        if batch.square != self.mask_head.image_size:
            raise ValueError(
                f"SAM embeddings of {batch.square} pixels, mask head of {self.mask_head.image_size}"
            )
        if not masks.images:
            return prompts.new_zeros(0, 1, 1, dtype=torch.float32)
        return upscale(self.mask_head(prompts, masks, batch.sam), masks)

    def _prompts(
        self, states: Tensor, masks: MaskLayout, visual: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Prompts (S,C) of `masks` from their states (S,D); `visual` as `tokens`, for pointed ones."""
        if self.mask_prompt == "pointed":
            assert visual is not None
            return self._pointed(states, masks, *visual)
        return self._projected(states)

    def _projected(self, states: Tensor) -> Tensor:
        with weights_cast(self.to_prompt):
            prompts: Tensor = self.to_prompt(states.to(next(self.to_prompt.parameters()).dtype))
        return prompts

    def _pointed(self, states: Tensor, masks: MaskLayout, tokens: Tensor, valid: Tensor) -> Tensor:
        """Each visual token is a word that [SEG] can mean: a state scores those of its image as the
        head scores words, or as its token answers do, and its prompt is theirs, in the shares of a
        softmax.

        What the state has to hold is which one it means, not where that lies.
        """
        prompts = self._projected(self.lm.model.norm(tokens))
        alone = len(tokens) == 1  # the image that all dialogues share
        owner = torch.tensor([0 if alone else image for image in masks.images])
        owner = owner.to(tokens.device)
        with torch.autocast(states.device.type, enabled=False):
            if self.projector.answers is None:
                words = F.normalize(tokens.float(), dim=2)[owner]  # (S,K,D)
                scores = (words @ states.float()[:, :, None])[:, :, 0]
            else:
                scores = self.projector.answers(states, tokens, owner)
            shares = scores.masked_fill(~valid[owner], -torch.inf).softmax(1)
            return (shares[:, None] @ prompts.float()[owner])[:, 0].to(prompts.dtype)

    def _real(self, batch: Batch) -> Tensor | None:
        """Places of the real superpixels; None where an image has none, which is an error."""
        layout = batch.layout
        return layout.real if layout.superpixels is not None and all(layout.superpixels) else None

    def _no_masks(self, batch: Batch, states: Tensor, visual: tuple[Tensor, Tensor]) -> Tensor:
        """0 for a batch without [SEG]; the mask of any state is made for it.

        Where weights are split over processes (ZeRO 3, FSDP), each gathers them when it calls a
        module: one that did not would keep the others waiting.
        """
        masks = MaskLayout.of(batch, (0,))
        prompts = self._prompts(states[:1, 0], masks, visual)
        found: Tensor = self._decoded(prompts, masks, batch).sum() * 0
        if self.projector.answers is None:
            return found
        first, owner = states[:1, 0], batch.slot[:1] * 0
        scores = (self.projector.answers(first, visual[0], owner, words=w) for w in (False, True))
        for each in scores:
            found = found + each.sum() * 0
        return found

    def _seg_states(self, batch: Batch, merged: Merged, states: Tensor) -> Tensor:
        """States (S,D) that the masks are made of."""
        place = merged.index(batch.seg_row, batch.seg_col)
        if self.mask_state == "predicting":
            place = place - 1
        return states[batch.seg_row, place]

    def _click_loss(self, prompts: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Sum over masks (S,H,W) of the errors of their prompts (S,C) as clicks."""
        with torch.autocast(prompts.device.type, enabled=False):
            points = click_targets(targets, batch.layout.masks, batch)
            codes = click_codes(self.mask_head.prompt_encoder, points, batch.square)
            return click_errors(prompts, codes).sum()

    def _answer_loss(
        self, batch: Batch, states: Tensor, targets: Tensor, tokens: Tensor, valid: Tensor
    ) -> Tensor:
        """Sum over masks (S,H,W) of the errors of both token answers."""
        answers, owner = self.projector.answers, batch.seg_row
        assert answers is not None
        words = question_words(batch, self.embedded(batch.ids))
        share, real = shares(batch, self._pieces(batch.visual, tokens), targets), valid[owner]
        return answer_loss(answers(states, tokens, owner), share, real) + answer_loss(
            answers(words, tokens, owner, words=True), share, real
        )

    def _pieces(self, visual: Visual, tokens: Tensor) -> Tensor:
        """(B,K,h,w) what each token stands for: its superpixel, or its share of each patch."""
        if "masks" in self.projector.needs:
            assert visual.masks is not None
            return visual.masks
        pieces = self.projector.pieces_of(visual, tokens)
        return pieces.reshape(*pieces.shape[:2], *visual.grid)


class Reply(NamedTuple):
    """The language model's states for the S masks of a batch, teacher-forced.

    before  (S,D) of each [SEG] the state that predicts it
    mine    (S,D) the states that masks are made of
    tokens  (B,K,D) visual tokens, one for all where dialogues share their image
    valid   (B,K) bool, which are real
    """

    before: Tensor
    mine: Tensor
    tokens: Tensor
    valid: Tensor


def split_by_image(
    logits: Tensor, images: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Masks (n,H,W) per image, views of `logits` (S,Y,X); `images` of the masks, rising."""
    counts = [images.count(image) for image in range(len(sizes))]
    return [
        mine[:, :height, :width] if len(mine) else logits.new_zeros(0, height, width)
        for mine, (height, width) in zip(torch.split(logits, counts), sizes, strict=True)
    ]
