"""Training task of the tiny referring model: batches of dialogues, and the losses."""

from pathlib import Path
from typing import Any, NamedTuple

import lm_auxiliary_losses as helps
import lm_visual_inputs
import numpy as np
import torch
from lm_data import RisData
from lm_model import WIDTH, lm_config, start_lm
from lm_visual_inputs import Sight
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from svp.model.batch import Batch, MaskLayout, Visual, pack_bits
from svp.model.language.load import random_lm
from svp.model.losses import Weights, mask_losses
from svp.model.mask_head import MaskHead
from svp.model.merge import Merged, merge
from svp.model.projectors import build_projector
from svp.model.ris import RisModel
from svp.pipeline.encoders.tiny import WIDTH as CHANNELS
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.sam.tiny import IMAGE_SIZE
from svp.train.data.dialogues import build_dialogue, collate
from svp.train.data.prompts import choose_turns
from svp.train.data.tokenizer import Vocabulary, load_vocabulary
from svp.train.warm_start import place_code

GRID = (16, 16)
MASKS = Weights(ce=1.0, bce=8.0, dice=1.0)
KEEP = 3.0  # weight of the layers' inputs telling what the encoder said
SPREAD = 1.7  # standard deviation of the encoder's features
HELP = 10.0  # weight of the three codes of places, beside 1 of looking
# Shares of the steps that show pieces, half of the patches, windows; the others show all patches.
PIECES, SOME, WINDOWS = 0.5, 0.15, 0.2
NOISE = 0.35  # standard deviation added to what is shown; that of pieces' features is 1.2
TOLD = 0.5  # share of steps in which tokens also tell where and how large their piece is
TOKENIZER = Path(__file__).parents[1] / "tiny" / "lm" / "tokenizer.json"


class Tiny(nn.Module):
    """The model, and what its helps need: linear readers of places and features in the states."""

    def __init__(self, model: RisModel, words: Vocabulary) -> None:
        super().__init__()
        self.model, self.words = model, words
        self.query = nn.Linear(WIDTH, model.mask_head.width)
        self.key = nn.Linear(WIDTH, model.mask_head.width)
        self.recall = nn.Linear(WIDTH, CHANNELS)


class Lesson(NamedTuple):
    """A batch, its label maps, and for each word of each expression its image, place and mask."""

    batch: Batch
    labels: Tensor
    row: Tensor
    col: Tensor
    mask: Tensor


def build(seed: int) -> Tiny:
    """The untrained model; mask decoder and prompt encoder are those of the shipped SAM."""
    words = load_vocabulary(TOKENIZER.parent)
    sam: Any = build_backend(SuperpixelConfig(), LocalPaths(Path()))
    torch.manual_seed(seed)
    lm = random_lm(lm_config(words.size), seed)
    start_lm(lm)
    projector = build_projector("mlp", in_dim=CHANNELS, llm_dim=WIDTH)
    decoder = sam.sam.mask_decoder.train().requires_grad_(True)
    return Tiny(RisModel(lm, projector, MaskHead(sam.sam.prompt_encoder, decoder)), words)


def make_lesson(
    data: RisData, rows: NDArray[np.int64], rng: np.random.Generator, turns: int, words: Vocabulary
) -> Lesson:
    """The scenes `rows`, each with a dialogue of up to `turns` of its expressions."""
    talks, packed, spoken, masks = [], [], [], 0
    for number, row in enumerate(rows):
        phrases = data.phrases[row]
        chosen = [phrases[k] for k in rng.permutation(len(phrases))[:turns]]
        texts = [text for text, _ in chosen]
        talk = build_dialogue(words, choose_turns(texts, int(rng.integers(2**63))))
        for k, text in enumerate(texts):
            start = talk.seg[k - 1] if k else talk.slot
            where = _find(talk.ids, words.encode(text), start)
            spoken += [(number, col, masks + k) for col in where]
        masks += len(texts)
        talks.append(talk)
        truth = np.stack([data.labels[row] == label for _, label in chosen])
        packed.append(pack_bits(truth.astype(np.uint8)))
    batch = Batch(
        visual=Visual(torch.from_numpy(data.features[rows]).float(), GRID),
        **collate(talks, words.pad)._asdict(),
        sam=torch.from_numpy(data.sam[rows]).float(),
        square=IMAGE_SIZE,
        sizes=tuple(data.labels.shape[1:] for _ in rows),
        packed=tuple(packed),
        sent_ids=tuple(tuple(range(len(talk.seg))) for talk in talks),
    )
    return Lesson(batch, torch.from_numpy(data.labels[rows]), *torch.tensor(spoken).T)


def _find(ids: tuple[int, ...], piece: tuple[int, ...], start: int) -> range:
    """Index of `piece` in `ids` after `start`."""
    for at in range(start, len(ids) - len(piece) + 1):
        if ids[at : at + len(piece)] == piece:
            return range(at, at + len(piece))
    raise ValueError("an expression was joined with its neighbours")


def step_losses(
    tiny: Tiny,
    lesson: Lesson,
    sight: Sight,
    rng: np.random.Generator,
    *,
    told: bool,
    decoded: int,
    noise: float = NOISE,
) -> dict[str, Tensor]:
    """The loss and its parts, where the model is shown `sight`, with `decoded` masks decoded.

    `told`: tokens also tell where their piece lies, as an SSPE will. Masks are the dear part of a
    step: a few teach the decoder, all teach the helps.
    """
    model, batch = tiny.model, lesson.batch
    seen = sight.share @ batch.visual.patches  # (B,K,C)
    seen = seen + noise * torch.from_numpy(rng.standard_normal(seen.shape, np.float32))
    if told:
        seen = seen + place_code(sight.share, sight.area, GRID, CHANNELS)
    merged = _merged(model, batch, seen, sight.valid)
    states, inputs = _states(model, merged)
    row, place = batch.seg_row, merged.index(batch.seg_row, batch.seg_col) - 1
    ce, count = model.cross_entropy(batch, merged, states)
    truth = torch.cat(batch.targets()).float()
    drawn = torch.from_numpy(np.sort(rng.permutation(len(row))[:decoded]))
    masks = MaskLayout.of(batch, row[drawn].tolist())
    logits = model.masks_of(states[row, place][drawn], masks, batch)
    bce, dice = mask_losses(logits, truth[drawn].bool())

    prompts = model.mask_head.prompt_encoder
    shown = sight.valid.shape[1]
    at = (merged.slot[:, None] + torch.arange(shown)).clamp(max=states.shape[1] - 1)
    cover = F.adaptive_avg_pool2d(truth[:, None], GRID).flatten(1)  # (S,P)
    inside = (sight.share[row] @ cover[..., None])[..., 0]  # (S,K)
    word = merged.index(lesson.row, lesson.col)
    seg_input, word_input = inputs[helps.SEG_LAYER], inputs[helps.WORD_LAYER]
    look, looked = helps.look(model.lm, seg_input, helps.SEG_LAYER, at, row, place, inside)
    words, read_words = helps.look(
        model.lm, word_input, helps.WORD_LAYER, at, lesson.row, word, inside[lesson.mask]
    )
    codes = helps.target_codes(prompts, truth)
    where = at[..., None].expand(-1, -1, WIDTH)
    tokens = seg_input.gather(1, where)
    real = sight.valid
    said = (seen / SPREAD)[real]
    recalled = [tiny.recall(x)[real] for x in (word_input.gather(1, where), tokens)]
    parts = {
        "ce": ce / count,
        "bce": bce / len(drawn),
        "dice": dice / len(drawn),
        "look": look + words,
        "keep": torch.stack([F.mse_loss(x, said) for x in recalled]).sum(),
        "stand": helps.stand(tiny.key(tokens)[real], sight.share[real], GRID, prompts),
        "read": F.mse_loss(tiny.query(inputs[helps.SEG_LAYER + 1][row, place]), codes),
        "click": F.mse_loss(model.to_prompt(states[row, place]), codes),
    }
    places = parts["stand"] + parts["read"] + parts["click"]
    loss = MASKS.ce * parts["ce"] + MASKS.bce * parts["bce"] + MASKS.dice * parts["dice"]
    loss = loss + parts["look"] + KEEP * parts["keep"] + HELP * places
    iou = _iou(logits, truth[drawn])
    return {"loss": loss, **parts, "words": read_words, "looked": looked, "iou": iou}


def _merged(model: RisModel, batch: Batch, seen: Tensor, valid: Tensor) -> Merged:
    """The merged sequence with the pieces `seen` (B,K,C)."""
    tokens, _ = model.projector(seen, (1, seen.shape[1]))
    text = model.lm.get_input_embeddings()(batch.ids.clamp(min=0))
    return merge(text, batch.lengths, batch.slot, tokens, valid)


def _pieces(lesson: Lesson, rng: np.random.Generator) -> Sight:
    return lm_visual_inputs.pieces(lesson.labels, GRID, rng)


def _patches(lesson: Lesson, rng: np.random.Generator, kept: float = 1.0) -> Sight:
    return lm_visual_inputs.patches(len(lesson.labels), GRID[0] * GRID[1], rng, kept=kept)


def _windows(lesson: Lesson, rng: np.random.Generator) -> Sight:
    return lm_visual_inputs.windows(len(lesson.labels), GRID, 4)


SIGHTS = {"pieces": _pieces, "windows": _windows, "patches": _patches}


def draw_sight(lesson: Lesson, rng: np.random.Generator) -> Sight:
    """Visual inputs of a step: mostly pieces, which cost little, else windows or patches."""
    kind = rng.random()
    if kind < PIECES:
        return _pieces(lesson, rng)
    if kind < PIECES + WINDOWS:
        return lm_visual_inputs.windows(len(lesson.labels), GRID, 2 + 2 * int(rng.integers(2)))
    return _patches(lesson, rng, 0.5 if kind < PIECES + WINDOWS + SOME else 1.0)


def _states(model: RisModel, merged: Merged) -> tuple[Tensor, dict[int, Tensor]]:
    """Final states (B,L,D), and by layer its normalised input (B,L,D)."""
    inputs: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda _module, _args, out: inputs.update({layer: out})

    hooks = [
        layer.input_layernorm.register_forward_hook(keep(k))
        for k, layer in enumerate(model.lm.model.layers)
    ]
    try:
        return model.states(merged), inputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean IoU of masks (S,H,W)."""
    found, wanted = logits > 0, truth > 0
    both, either = (found & wanted).flatten(1).sum(1), (found | wanted).flatten(1).sum(1)
    return (both / either.clamp(min=1)).mean()
