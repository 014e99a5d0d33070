"""Warm start of a projector: copy matching layers, then distil the pretrained one.

Where the layers fit they are copied (`copy_layers`). Then it imitates: its tokens learn to be what
the pretrained projector makes of the patches that they stand for, which are those of its superpixel,
or of its cell where the grid is cut into as many equal cells as there are tokens: of the patches'
mean and of where and how large the piece is (`place_code`), which the tiny model was taught to read.
A projector can tell that from the masks (SSPE), from its own order, or from what features still say
of places; all have the same lesson, and what they do with it afterwards is theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..model.batch import Visual
from ..model.projectors import Projector
from ..model.projectors.base import MaskInput
from ..model.projectors.svp.ssa import pool
from .data.expression_table import Entry
from .data.keyed_rng import key_of, permutation

STEPS, IMAGES, RATE = 300, 16, 3e-3
LOUDNESS = 2.0  # of the place code: about half of the features' own deviation per channel


class Visuals(Protocol):
    """Source of projector inputs, see `data.collate.VisualSource`."""

    def read(
        self, entries: Sequence[Entry], keys: Sequence[int | None]
    ) -> tuple[Visual, Tensor, tuple[tuple[int, int], ...]]:
        """Inputs of these images."""
        ...


@torch.no_grad()
def copy_layers(projector: Projector, pretrained: Mapping[str, Tensor]) -> bool:
    """Copy the pretrained layers if `projector` has them all, by name and shape; says whether."""
    own = dict(projector.named_parameters())
    if not all(name in own and own[name].shape == t.shape for name, t in pretrained.items()):
        return False
    for name, value in pretrained.items():
        own[name].copy_(value)
    return True


def imitate(
    projector: Projector, teacher: Projector, visuals: Visuals, images: Sequence[Entry], seed: int
) -> str:
    """Let `projector` (CPU, float32) imitate `teacher`; a line for the user.

    In place. A function of its arguments alone: every rank, and a resumed run, gets the same.
    """

    def batch(step: int) -> Visual:
        order = permutation(key_of(seed, "warm", step), len(images))[:IMAGES]
        chosen = [images[int(k)] for k in order]
        visual, _, _ = visuals.read(chosen, [None] * len(chosen))
        return visual.map(lambda x: x.float() if x.dtype == torch.float16 else x)

    wanted = [p.requires_grad for p in projector.parameters()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of(seed, "warm"))
        projector.requires_grad_(True).train()
        optimizer = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.0)
        errors = []
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / 20, 1 - step / STEPS)
            error = _error(projector, teacher, batch(step))
            optimizer.zero_grad()
            torch.autograd.backward(error)
            nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
            optimizer.step()
            errors.append(error.item())
    for parameter, trains in zip(projector.parameters(), wanted, strict=True):
        parameter.requires_grad_(trains)
    last = sum(errors[-10:]) / len(errors[-10:])
    return f"projector distilled from the pretrained one: error {errors[0]:.2f} -> {last:.2f} of 1"


def place_code(share: Tensor, area: Tensor, grid: tuple[int, int], width: int) -> Tensor:
    """Code of the position and size of image pieces, which the tiny model was taught to read.

    share (...,K,P) how much each patch counts in each piece, rows sum to 1; area (...,K) share of the
    image -> (...,K,width) float32, to be added to the pieces' features: waves of rows and columns
    (mean over the piece), spread and log area, each along its own direction (rows of a DCT).
    """
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    at = torch.stack([x.flatten(), y.flatten()], 1)  # (P,2) in (0,1)
    turns = (at[:, :, None] * torch.pi * torch.arange(1, 5)).flatten(1)  # (P,8)
    middle = share @ at
    spread = (share @ at.square() - middle.square()).clamp(min=0).sqrt()
    size = (area.clamp(min=1e-4).log() + 3) / 1.5
    signs = [share @ turns.sin(), share @ turns.cos(), 4 * spread, size[..., None]]
    told = torch.cat(signs, -1)
    angle = torch.pi / width * (torch.arange(width) + 0.5)
    directions = (angle * torch.arange(1, told.shape[-1] + 1)[:, None]).cos() * (2 / width) ** 0.5
    code: Tensor = LOUDNESS * told @ directions
    return code


def _error(projector: Projector, teacher: Projector, visual: Visual) -> Tensor:
    """Mean squared error of the tokens over the targets' variance."""
    masks = None
    if visual.cover is not None and visual.masks is not None:
        masks = MaskInput(visual.cover, visual.masks)
    tokens, valid = projector(
        visual.patches, visual.grid, cls=visual.cls, multi=visual.multi, masks=masks,
        mask_valid=visual.valid, means=visual.means,
    )  # fmt: skip
    with torch.no_grad():
        cover = projector.pieces_of(visual, tokens)
        means = pool(cover, visual.patches) if visual.means is None else visual.means
        covered = cover.to(means.dtype).sum(2)
        share = cover.to(means.dtype) / covered.clamp(min=1e-6)[..., None]
        means = means + place_code(share, covered / cover.shape[2], visual.grid, means.shape[2])
        target, _ = teacher(means, (1, means.shape[1]))
        target = target[valid]
    wrong: Tensor = (tokens[valid] - target).square().mean() / target.var()
    return wrong
