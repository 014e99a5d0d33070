"""A projector's start from the pretrained one, for a model so small that masks alone teach it nothing.

Where the layers fit they are copied (`copy_layers`). A projector whose tokens are still far from the
pretrained one's (`NEAR`) imitates before it trains: they learn to be what the pretrained projector
makes of the mean of the patches they stand for, which are the patches of its superpixel, or of its
cell where the grid is cut into as many equal cells as there are tokens. All start with the same
knowledge, that of plain pooling; what they do with it is theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..model.batch import Visual
from ..model.projectors import Projector
from ..model.projectors.base import MaskInput
from ..model.ssa import pool
from .feed.table import Entry
from .hashing import key_of, permutation

STEPS, IMAGES, RATE = 300, 16, 3e-3
# Error of a start that is good enough. In the tiny world the copied layers alone give MLP and DeCo
# 0.00, SVP 0.14, LDPv2 0.24 and TokenPacker 0.96: its last two layers fit, and see random attention.
NEAR = 0.2


class Visuals(Protocol):
    """Where projector inputs come from, see `feed.fill.VisualSource`."""

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
    """Let `projector` (CPU, float32) imitate `teacher` unless it is near; a line for the user.

    In place. A function of its arguments alone: every rank, and a run that goes on, gets the same.
    """

    def batch(step: int) -> Visual:
        order = permutation(key_of(seed, "warm", step), len(images))[:IMAGES]
        chosen = [images[int(k)] for k in order]
        visual, _, _ = visuals.read(chosen, [None] * len(chosen))
        return visual.map(_wide)

    with torch.no_grad():
        start = _error(projector.eval(), teacher, batch(0)).item()
    if start <= NEAR:
        return f"the projector starts near the pretrained one: error {start:.2f} of 1"
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
    return f"the projector imitated the pretrained one: error {errors[0]:.2f} -> {last:.2f} of 1"


def cells(tokens: int, grid: tuple[int, int]) -> Tensor:
    """(K,P) 0/1: which of `tokens` equal cells each patch is in; runs of patches if none divide."""
    height, width = grid
    fits = [
        (rows, tokens // rows)
        for rows in range(1, height + 1)
        if tokens % rows == 0 and tokens // rows <= width
    ]
    if fits:
        rows, cols = min(fits, key=lambda shape: abs(shape[0] * width - shape[1] * height))
        y, x = torch.arange(height) * rows // height, torch.arange(width) * cols // width
        cell = (y[:, None] * cols + x).flatten()
    else:
        cell = torch.arange(height * width) * tokens // (height * width)
    return (cell == torch.arange(tokens)[:, None]).float()


def _error(projector: Projector, teacher: Projector, visual: Visual) -> Tensor:
    """Mean squared error of the tokens over the targets' variance."""
    masks = None
    if visual.cover is not None and visual.masks is not None:
        masks = MaskInput(visual.cover, visual.masks)
    tokens, valid = projector(
        visual.patches, visual.grid, cls=visual.cls, multi=visual.multi, masks=masks,
        mask_valid=visual.valid,
    )  # fmt: skip
    with torch.no_grad():
        cover = visual.cover
        if cover is None:
            cover = cells(tokens.shape[1], visual.grid).expand(len(tokens), -1, -1)
        means = pool(cover, visual.patches)
        target, _ = teacher(means, (1, means.shape[1]))
        target = target[valid]
    wrong: Tensor = (tokens[valid] - target).square().mean() / target.var()
    return wrong


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x
