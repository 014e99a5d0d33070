"""What the tiny referring model learns in its pretraining: batches, the pointer, the losses."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ris_data import RisData
from torch import Tensor, nn
from torch.nn import functional as F

from svp.model.batch import Batch, Visual, pack_bits
from svp.model.lm import random_lm
from svp.model.losses import Weights, mask_losses
from svp.model.maskhead import MaskHead
from svp.model.merge import merge
from svp.model.projectors import build as build_projector
from svp.model.ris import RisModel
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import Where
from svp.pipeline.sam import build_backend
from svp.train.text.dialogues import build_dialogue, collate
from svp.train.text.prompts import choose_turns
from svp.train.text.tokens import Vocabulary, load_vocabulary

WIDTH, LAYERS, HEADS, FFN = 128, 6, 4, 352
ROPE = 1e7  # most of a head stays free of position: words must match patches 400 tokens away
GRID = (16, 16)
READ = 5  # layer whose input must already tell where the target is
LOOK, WORD_LOOK = (4,), (3,)  # layers whose head 0 learns to look at the target's patches
POINTER = 1.0  # weight of the pointer beside the model's own losses
TOKENIZER = Path(__file__).parent / "lm" / "tokenizer.json"


def lm_config(vocabulary: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=1024,
        rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=False, hidden_act="silu", initializer_range=0.08,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE},
    )  # fmt: skip


class Tiny(nn.Module):
    """The model and the pointer's projections."""

    def __init__(self, model: RisModel, words: Vocabulary) -> None:
        super().__init__()
        self.model, self.words = model, words
        self.query, self.key = (
            nn.Linear(WIDTH, model.mask_head.width),
            nn.Linear(WIDTH, model.mask_head.width),
        )


def build(seed: int) -> Tiny:
    words = load_vocabulary(TOKENIZER.parent)
    sam = build_backend(SuperpixelConfig(), Where(Path())).sam
    torch.manual_seed(seed)
    lm = random_lm(lm_config(words.size), seed)
    projector = build_projector("mlp", in_dim=96, llm_dim=WIDTH)
    head = MaskHead(sam.prompt_encoder, sam.mask_decoder.train().requires_grad_(True))
    return Tiny(RisModel(lm, projector, head), words)


class Lesson(NamedTuple):
    """A batch, and for each word of each expression its image, place in the text and mask."""

    batch: Batch
    row: Tensor
    col: Tensor
    mask: Tensor


def make_batch(
    data: RisData,
    rng: np.random.Generator,
    images: int,
    turns: int,
    words: Vocabulary,
    rows: Any = None,
) -> Lesson:
    """`images` scenes, each with a dialogue of up to `turns` of its expressions."""
    if rows is None:
        rows = rng.integers(len(data.labels), size=images)
    talks, packed, sent, spoken = [], [], [], []
    for row in rows:
        phrases = data.phrases[row]
        chosen = [phrases[k] for k in rng.permutation(len(phrases))[:turns]]
        texts = [text for text, _ in chosen]
        talk = build_dialogue(words, choose_turns(texts, int(rng.integers(2**63))))
        for k, text in enumerate(texts):
            start = talk.seg[k - 1] if k else talk.slot
            spoken += [
                (len(talks), col, sum(map(len, sent)) + k)
                for col in _find(talk.ids, words.encode(text), start)
            ]
        talks.append(talk)
        packed.append(
            pack_bits(np.stack([data.labels[row] == label for _, label in chosen]).astype(np.uint8))
        )
        sent.append(tuple(range(len(chosen))))
    texts_ = collate(talks, words.pad)
    batch = Batch(
        visual=Visual(torch.from_numpy(np.stack([data.features[r] for r in rows])).float(), GRID),
        **texts_._asdict(),
        sam=torch.from_numpy(np.stack([data.sam[r] for r in rows])).float(),
        sizes=tuple(data.labels.shape[1:] for _ in rows),
        packed=tuple(packed),
        sent_ids=tuple(sent),
    )
    return Lesson(batch, *torch.tensor(spoken).T)


def _find(ids: tuple[int, ...], piece: tuple[int, ...], start: int) -> range:
    """Where `piece` stands in `ids` after `start`."""
    for at in range(start, len(ids) - len(piece) + 1):
        if ids[at : at + len(piece)] == piece:
            return range(at, at + len(piece))
    raise ValueError("an expression was joined with its neighbours")


def step_losses(
    tiny: Tiny, lesson: Lesson, share: float, rng: np.random.Generator, decoded: int = 24
) -> dict[str, Tensor]:
    """The model's losses and the pointer's, with `share` of the patches kept."""
    model, batch = tiny.model, lesson.batch
    tokens, valid = model.tokens(batch)
    patches = tokens.shape[1]
    kept = torch.from_numpy(
        np.sort(np.stack([rng.permutation(patches)[: round(patches * share)] for _ in tokens]))
    )
    if share < 1:
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        valid = valid.gather(1, kept)
    text = model.lm.get_input_embeddings()(batch.ids.clamp(min=0))
    merged = merge(text, batch.lengths, batch.slot, tokens, valid)
    seen: dict[int, Tensor] = {}
    hooks = [
        model.lm.model.layers[k].input_layernorm.register_forward_hook(
            lambda _m, _i, out, k=k: seen.update({k: out})
        )
        for k in {*LOOK, *WORD_LOOK, READ}
    ]
    states = model.states(merged)
    for hook in hooks:
        hook.remove()
    ce, count = model._cross_entropy(batch, merged, states)
    place = merged.index(batch.seg_row, batch.seg_col) - 1
    chosen = states[batch.seg_row, place]
    truth = torch.cat(batch.targets()).float()
    # Masks are the dear part of a step: a few teach the decoder, all teach the pointer.
    drawn = torch.from_numpy(np.sort(rng.permutation(len(chosen))[:decoded]))
    (group,) = model.masks_of(chosen[drawn], batch.seg_row[drawn], batch)
    prompts = model.mask_head.prompt_encoder
    clicks = _clicks(prompts, truth)
    click = F.mse_loss(model.to_prompt(chosen), clicks)
    read = F.mse_loss(tiny.query(seen[READ][batch.seg_row, place]), clicks)
    logits = group.logits
    bce, dice = mask_losses([logits], [truth[drawn]])
    at = merged.slot[:, None] + torch.arange(tokens.shape[1])
    spots = _code(prompts, _centres(truth.shape[1:]), truth.shape[1:])[kept]  # (B,P,C)
    stand = F.mse_loss(
        tiny.key(seen[LOOK[0]].gather(1, at[..., None].expand(-1, -1, WIDTH))), spots
    )
    cover = F.adaptive_avg_pool2d(truth[:, None], GRID).flatten(1).gather(1, kept[batch.seg_row])
    looks = [_look(model.lm, seen, at, k, batch.seg_row, place, cover) for k in LOOK]
    word = merged.index(lesson.row, lesson.col)
    looks += [_look(model.lm, seen, at, k, lesson.row, word, cover[lesson.mask]) for k in WORD_LOOK]
    look = torch.stack([loss for loss, _ in looks]).sum()
    w, masks = Weights(), len(drawn)
    loss = (
        w.ce * ce / count
        + (w.bce * 4 * bce + w.dice * 2 * dice) / masks
        + POINTER * (10 * (click + read + stand) + look)
    )
    hard, soft = truth[drawn] > 0, logits.detach() > 0
    both = (hard & soft).flatten(1).sum(1)
    iou = (both / (hard | soft).flatten(1).sum(1).clamp(min=1)).mean()
    return {
        "loss": loss,
        "ce": ce / count,
        "bce": bce / masks,
        "dice": dice / masks,
        "click": click,
        "read": read,
        "stand": stand,
        "look": look,
        "words": looks[-1][1],
        "looked": looks[0][1],
        "iou": iou,
    }


def _look(
    lm: Any,
    seen: dict[int, Tensor],
    at: Tensor,
    layer: int,
    row: Tensor,
    place: Tensor,
    cover: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of head 0 of `layer`: from text position `place` of image `row` to the patches.

    Only a text token that attends to the target can carry its place to the mask.
    """
    from transformers.models.llama.modeling_llama import rotate_half

    x, attention, size = seen[layer], lm.model.layers[layer].self_attn, WIDTH // HEADS
    positions = torch.arange(x.shape[1])
    cos, sin = lm.model.rotary_emb(x, positions[None])
    query = x[row, place] @ attention.q_proj.weight[:size].T
    query = query * cos[0, place] + rotate_half(query) * sin[0, place]
    keys = x @ attention.k_proj.weight[:size].T
    keys = keys * cos + rotate_half(keys) * sin
    # Over all that the head sees, text too: what it spends there cannot carry a place.
    wanted = x.new_zeros(len(row), x.shape[1]).scatter(1, at[row], cover)
    return _point(query, keys[row], wanted, positions > place[:, None], scale=size**0.5)


def _clicks(prompts: Any, truth: Tensor) -> Tensor:
    """(S,C) SAM's code of a click on the target's pixel nearest to its centre; truth (S,H,W)."""
    size = truth.shape[1:]
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    area = truth.sum((1, 2)).clamp(min=1)
    middle = [(truth * axis).sum((1, 2)) / area for axis in (y, x)]
    far = (y - middle[0][:, None, None]) ** 2 + (x - middle[1][:, None, None]) ** 2
    at = (far + 1e6 * (truth < 0.5)).flatten(1).argmin(1)
    return _code(prompts, torch.stack([x.flatten()[at], y.flatten()[at]], 1), size)


def _centres(size: tuple[int, ...]) -> Tensor:
    """(P,2) x y of the patches' centres, in pixels."""
    sides = [(torch.arange(n) + 0.5) * side / n for n, side in zip(GRID, size, strict=True)]
    y, x = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@torch.no_grad()
def _code(prompts: Any, points: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N,C) SAM's code of clicks at `points` (N,2) x y in pixels."""
    code = prompts.pe_layer.forward_with_coords(points[:, None], size)[:, 0]
    return code + prompts.point_embeddings[1].weight


def _point(
    query: Tensor,
    keys: Tensor,
    cover: Tensor,
    hidden: Tensor | None = None,
    scale: float = WIDTH**0.5,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of pointing at the covered patches, and how often the first choice is one.

    query (S,D), keys (S,P,D), cover (S,P) share of each patch in the target.
    """
    scores = (keys @ query[..., None])[..., 0] / scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, -1e4)
    wanted = cover / cover.sum(1, keepdim=True).clamp(min=1e-6)
    found = cover.sum(1) > 0
    loss = -(wanted * scores.log_softmax(1)).sum(1)[found].mean()
    hit = (cover.gather(1, scores.argmax(1, keepdim=True))[:, 0] > 0.2)[found].float().mean()
    return loss, hit
