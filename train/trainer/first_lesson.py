"""First lesson of a projector for a language model that has never seen an image.

Before the first step, without running the language model, the tokens of superpixels learn

1. words: a token points to the embedding rows of what is said of its superpixel. Among the
   superpixels of an image, each expression is nearest to the one that it means (contrastive). To a
   language model, a token of a red disc is then a little of "red" and of "disc", which it attends to
   as it does to words.
2. places: the L-P projector makes of a token, as if the last layer gave it, SAM's code of a click in
   the middle of its superpixel (`model.mask_head`). A [SEG] state that copies a token then has a mask.
3. size: as large as the rows of the embedding.

And SAM's mask decoder learns to make of a click on an object the object's whole mask, on the data's own
masks: it stays as it is while prompts are still wrong, since all that it could learn of those is to
make nothing.

Otherwise tokens, projection and mask decoder start from random values on both sides of a frozen
network, and hundreds of steps pass before one of them has a gradient that means something.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.batch import Visual
from ...model.losses import Losses, Weights, mask_losses
from ...model.mask_head import click_codes, click_errors, click_targets, upscale
from ...model.projectors.base import MaskInput
from ...model.ris import RisModel
from ...pipeline.errors import ConfigError
from ...pipeline.masks.encoder_view import View
from ..data.collate import CachedVisuals
from ..data.expression_table import NOTHING, Entry, ExpressionTable, Said
from ..data.keyed_rng import key_of, permutation
from ..data.loader import Loader
from ..data.prompts import phrase
from ..data.tokenizer import Vocabulary
from ..warm_start import Visuals

STEPS, IMAGES, SENTENCES, RATE = 400, 16, 24, 3e-3
DECODER_STEPS, DECODER_IMAGES, DECODER_RATE = 150, 4, 1e-3
TAUGHT = ("projector.", "to_prompt.", "mask_head.decoder.")  # prefixes of parameters
AIM = 0.02  # of a click, sides of SAM's input: the deviation from the object's middle
SHARPNESS = 16.0  # of the cosine between an expression and a token
MEANT = 0.3  # least IoU, on the grid of patches, of the superpixel that an expression means


def teach(model: RisModel, samples: Loader, visuals: CachedVisuals, seed: int) -> str:
    """Teach projector, L-P projector and mask decoder (CPU, float32), in place; a line for the user.

    A function of its arguments alone: every rank gets the same, whatever its share of `samples` is.
    Raises ConfigError for a projector without superpixels.
    """
    if "masks" not in model.projector.needs:
        raise ConfigError("model.first_lesson teaches projectors of superpixels")
    features = visuals.plan.recipe.features
    lesson = _Lesson(
        model, samples.vocab, samples.table, View(features.view, features.size), visuals.square
    )
    parts = [p for name, p in model.named_parameters() if name.startswith(TAUGHT)]
    wanted = [p.requires_grad for p in parts]
    model.projector.set_sspe(True)
    model.projector.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of(seed, "lesson"))
        for part in parts:
            part.requires_grad_(True)
        words, places = _teach_tokens(lesson, visuals, seed)
        dice = _teach_decoder(model, samples, seed)
    for part, trains in zip(parts, wanted, strict=True):
        part.requires_grad_(trains)
    told = {"words": words, "places": places, "dice of clicks": dice}
    return "first lesson, without the language model: " + ", ".join(
        f"{name} {float(errors[0]):.3f} -> {float(errors[-10:].mean()):.3f}"
        for name, errors in told.items()
    )


class _Lesson:
    """The errors of a batch; `square`: side of SAM's input in pixels."""

    def __init__(
        self, model: RisModel, vocab: Vocabulary, table: ExpressionTable, view: View, square: int
    ) -> None:
        self.model, self.vocab, self.table = model, vocab, table
        self.view, self.square = view, square
        rows = model.lm.get_input_embeddings().weight.detach()[: vocab.base].float()
        self.rows, self.loud = rows - rows.mean(0), float(rows.square().mean().sqrt())

    def losses(self, visual: Visual, said: Sequence[tuple[Entry, Sequence[Said]]]) -> Tensor:
        """Errors (3,) of words, places and size."""
        assert visual.cover is not None and visual.masks is not None
        tokens, valid = self.model.projector(
            visual.patches, visual.grid, cls=visual.cls, multi=visual.multi,
            masks=MaskInput(visual.cover, visual.masks), mask_valid=visual.valid, means=visual.means,
        )  # fmt: skip
        cover, words, places = visual.cover.float(), [], []
        for mine, real, own, (entry, sentences) in zip(tokens, valid, cover, said, strict=True):
            rows, columns = self._maps(entry, visual.grid)
            words += self._words(mine[real], own[real], entry, sentences, rows, columns)
            places.append(self._places(mine[real], own[real], entry, rows, columns))
        size = tokens[valid].square().mean(1).clamp(min=1e-8).sqrt() / self.loud
        first = torch.stack(words).mean() if words else tokens.sum() * 0
        return torch.stack([first, torch.cat(places).mean(), (size - 1).square().mean()])

    def _maps(self, entry: Entry, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        found = self.view.matrices(entry.height, entry.width, grid)
        rows, columns = (torch.from_numpy(matrix).float() for matrix in found)
        return rows, columns

    def _words(
        self, tokens: Tensor, cover: Tensor, entry: Entry, said: Sequence[Said],
        rows: Tensor, columns: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        """Cross-entropy of each expression over the tokens (N,D) of its image."""
        texts, meant = [], []
        for one in said:
            share = self._share(one, entry, rows, columns)
            both = torch.minimum(cover, share).sum(1)
            overlap = both / (cover.sum(1) + share.sum() - both).clamp(min=1e-6)
            text = phrase(one.text)
            # As within a sentence: LLaMA's own tokenizer puts the blank before it by itself.
            ids = (
                self.vocab.encode_as_is(f" {text}") if self.vocab.chat else self.vocab.encode(text)
            )
            if float(overlap.max()) >= MEANT and ids:
                texts.append(self.rows[list(ids)].mean(0))
                meant.append(overlap.argmax())
        if not texts:
            return []
        alike = F.normalize(torch.stack(texts), dim=1) @ F.normalize(tokens.float(), dim=1).T
        found = F.cross_entropy(SHARPNESS * alike, torch.stack(meant), reduction="none")
        return list(found)

    def _share(self, said: Said, entry: Entry, rows: Tensor, columns: Tensor) -> Tensor:
        """Share (P,) of each patch that a sentence's mask covers."""
        packed = np.empty(entry.target_bytes, np.uint8)
        self.table.target(said, packed)
        bits = np.unpackbits(packed, count=entry.height * entry.width)
        mask = torch.from_numpy(bits.reshape(entry.height, entry.width)).float()
        return (rows @ mask @ columns.T).flatten()

    def _places(
        self, tokens: Tensor, cover: Tensor, entry: Entry, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Error (N,) of each token as a click on the middle of its superpixel."""
        y = rows @ (torch.arange(entry.height) + 0.5) / rows.sum(1).clamp(min=1e-6)
        x = columns @ (torch.arange(entry.width) + 0.5) / columns.sum(1).clamp(min=1e-6)
        share = cover.view(len(cover), len(y), len(x))
        whole = share.sum((1, 2)).clamp(min=1e-6)
        middle = torch.stack([share.sum(1) @ x / whole, share.sum(2) @ y / whole], 1)
        scale = self.square / max(entry.height, entry.width)
        codes = click_codes(self.model.mask_head.prompt_encoder, middle * scale, self.square)
        states = self.model.lm.model.norm(tokens.float())
        return click_errors(self.model.to_prompt(states.float()), codes)


def _teach_tokens(lesson: _Lesson, visuals: Visuals, seed: int) -> tuple[Tensor, Tensor]:
    """Errors (STEPS,) of words and of places."""
    model, table = lesson.model, lesson.table
    parts = [*model.projector.parameters(), *model.to_prompt.parameters()]
    optimizer = torch.optim.AdamW(parts, lr=RATE, weight_decay=0.0)
    told = []
    for step in range(STEPS):
        order = permutation(key_of(seed, "lesson", step), len(table))[:IMAGES]
        said = [_drawn(table, int(k), key_of(seed, "lesson", step, int(k))) for k in order]
        visual, _, _ = visuals.read([entry for entry, _ in said], [None] * len(said))
        errors = lesson.losses(
            visual.map(lambda x: x.float() if x.dtype == torch.float16 else x), said
        )
        _step(optimizer, errors.sum(), RATE, step / STEPS)
        told.append(errors.detach())
    words, places, _ = torch.stack(told).T
    return words, places


def _teach_decoder(model: RisModel, samples: Loader, seed: int) -> Tensor:
    """Dice losses (DECODER_STEPS,) of masks made of clicks near the middle of their targets."""
    head = model.mask_head
    optimizer = torch.optim.AdamW(head.decoder.parameters(), lr=DECODER_RATE, weight_decay=0.0)
    told = [torch.zeros(())]
    for step in range(DECODER_STEPS):
        drawn = samples.batch_of(key_of(seed, "decoder lesson", step), DECODER_IMAGES)
        batch = drawn.to("cpu", torch.float32)
        masks = batch.layout.masks
        if not masks.images:
            continue
        targets = masks.targets()
        points = click_targets(targets, masks, batch)
        points = points + torch.randn_like(points) * AIM * batch.square
        codes = click_codes(head.prompt_encoder, points, batch.square)
        logits = upscale(head(codes, masks, batch.sam), masks)
        bce, dice = mask_losses(logits, targets, masks.beyond())
        whole = Losses(bce * 0, bce, dice, 0, len(targets)).total(Weights())
        _step(optimizer, whole, DECODER_RATE, step / DECODER_STEPS)
        told.append(dice.detach() / len(targets))
    return torch.stack(told[1:] or told)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, done: float) -> None:
    """One step; the rate rises for a twentieth of the steps and falls to 0 at the end."""
    optimizer.param_groups[0]["lr"] = rate * min(20 * done + 0.05, 1 - done)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def _drawn(table: ExpressionTable, number: int, key: int) -> tuple[Entry, list[Said]]:
    """An image, and sentences of it that mean something."""
    said = [one for one in table.sentences(number) if one.target != NOTHING]
    return table.entry(number), [said[int(k)] for k in permutation(key, len(said))[:SENTENCES]]
