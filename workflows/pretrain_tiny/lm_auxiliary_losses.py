"""Auxiliary losses used only in pretraining the tiny referring model.

Masks alone teach a small model nothing for thousands of steps: to answer with a place, a text token
must attend to the target's patches, the patches must say where they are, and the decoder must get a
code it knows. Each of these is taught directly:

    keep   a patch still tells what the encoder said when the text looks at it
    look   head 0 of two layers looks from the text at the target's patches
    stand  a patch tells where it stands, as SAM's code of a click there
    read   the state that looked tells where the target is, as SAM's code of a click on it
    click  so does the prompt that goes to the mask decoder
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORD_LAYER, SEG_LAYER = 3, 4  # the words of an expression look first, then the state before [SEG]


def look(
    lm: Any, x: Tensor, layer: int, at: Tensor, row: Tensor, place: Tensor, cover: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of head 0 of `layer` and how often its first choice is right.

    x (B,L,D) the layer's normalised input, at (B,P) where the pieces are, `place` (S,) the text
    position in image `row` (S,) that looks, cover (S,P) share of each piece in its target. The head
    competes with all that it can see, text too: what it spends there cannot carry a place.
    """
    from transformers.models.llama.modeling_llama import rotate_half

    attention, size = lm.model.layers[layer].self_attn, lm.config.head_dim
    positions = torch.arange(x.shape[1])
    cos, sin = lm.model.rotary_emb(x, positions[None])
    query = x[row, place] @ attention.q_proj.weight[:size].T
    query = query * cos[0, place] + rotate_half(query) * sin[0, place]
    keys = x @ attention.k_proj.weight[:size].T
    keys = keys * cos + rotate_half(keys) * sin
    scores = (keys[row] @ query[..., None])[..., 0] / size**0.5
    scores = scores.masked_fill(positions > place[:, None], -1e4)
    wanted = scores.new_zeros(scores.shape).scatter(1, at[row], cover)
    found = cover.sum(1) > 0
    chance = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-6)
    loss = -(chance * scores.log_softmax(1)).sum(1)[found].mean()
    right = wanted.gather(1, scores.argmax(1, keepdim=True))[:, 0] > 0.2
    return loss, right[found].float().mean()


def stand(said: Tensor, share: Tensor, grid: tuple[int, int], prompts: Any) -> Tensor:
    """Error of what pieces (N,C) with `share` (N,P) of the grid's patches say of their middle."""
    size = prompts.input_image_size
    sides = [(torch.arange(n) + 0.5) * side / n for n, side in zip(grid, size, strict=True)]
    y, x = torch.meshgrid(*sides, indexing="ij")
    middle = share @ torch.stack([x.flatten(), y.flatten()], 1)
    return F.mse_loss(said, click_code(prompts, middle, size))


def target_codes(prompts: Any, truth: Tensor) -> Tensor:
    """(S,C) SAM's code of a click on the target's pixel nearest to its centre; truth (S,H,W)."""
    size = truth.shape[1:]
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    area = truth.sum((1, 2)).clamp(min=1)
    middle = [(truth * axis).sum((1, 2)) / area for axis in (y, x)]
    far = (y - middle[0][:, None, None]) ** 2 + (x - middle[1][:, None, None]) ** 2
    at = (far + 1e6 * (truth < 0.5)).flatten(1).argmin(1)
    return click_code(prompts, torch.stack([x.flatten()[at], y.flatten()[at]], 1), size)


@torch.no_grad()
def click_code(prompts: Any, points: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N,C) SAM's code of clicks at `points` (N,2) x y in pixels of an image of `size`."""
    code: Tensor = prompts.pe_layer.forward_with_coords(points[:, None], size)[:, 0]
    return code + prompts.point_embeddings[1].weight
