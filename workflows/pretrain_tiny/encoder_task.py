"""Training task of the tiny encoder: predict the attributes of each patch's main object.

One linear head per attribute reads single patches and means over the patches of a thing alike,
as the superpixel tokens of the product are such means.

Where a patch stands is taught first and then mostly forgotten: in the last phase the table of
position embeddings is shifted at random and features must not change with it. What is left is
what a self-supervised encoder keeps, some idea of the place: enough that a language model can
learn what "leftmost" means, too little to point with (README.md has the figures).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scene_arrays import SceneArrays
from torch import Tensor, nn
from torch.nn import functional as F

from svp.pipeline.datasets.scenes.attributes import ATTRIBUTES
from svp.pipeline.datasets.scenes.vocab import LEVELS
from svp.pipeline.encoders.tiny import MEAN, PATCH, REGISTERS, STD, VIEW


@dataclass(frozen=True, slots=True)
class Batch:
    """images (B,3,H,W); owner (B,P) int64, row of `labels` that owns the patch (regions too);
    share (B,P) of the patch that the owner covers; level (B,P); cover (K,P) float, rows sum to 1;
    image_of (K,); labels (K,A), -1 where an attribute does not apply; extent (B,4,P)."""

    images: Tensor
    owner: Tensor
    share: Tensor
    level: Tensor
    cover: Tensor
    image_of: Tensor
    labels: Tensor
    extent: Tensor


def heads(width: int) -> nn.ModuleDict:
    """One linear head per attribute, the level of a patch among them."""
    return nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in ATTRIBUTES.items()})


def batch(data: SceneArrays, picks: Any, flips: Any) -> Batch:
    """A batch of the scenes `picks`, mirrored where `flips`."""
    images, owners, shares, levels, covers, image_of, labels, extents = ([] for _ in range(8))
    for b, (k, flip) in enumerate(zip(picks, flips, strict=True)):
        image, maps = data.images[k], data.labels[k]
        if flip:
            image, maps = image[:, ::-1], maps[:, :, ::-1]
        cover = patch_cover(maps[0])
        owner = cover.argmax(0)
        images.append(np.ascontiguousarray(image))
        owners.append(owner + sum(map(len, covers)))
        shares.append(cover.max(0))
        levels.append(_levels(maps, owner + 1, int(data.regions[k])))
        covers.append(cover / cover.sum(1, keepdims=True))
        image_of += [b] * len(cover)
        labels.append(data.attributes[k])
        extents.append(_extent(cover > 0)[:, owner, np.arange(cover.shape[1])])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return Batch(
        pixels, _stacked(owners), _stacked(shares), _stacked(levels),
        torch.from_numpy(np.concatenate(covers)), torch.tensor(image_of),
        torch.from_numpy(np.concatenate(labels)), _stacked(extents),
    )  # fmt: skip


def _stacked(rows: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack(rows))


def patch_cover(whole: Any) -> Any:
    """(K,P) float32: share of each patch that each region and thing covers."""
    ids = np.arange(1, int(whole.max()) + 1, dtype=whole.dtype)[:, None, None]
    masks = whole[None] == ids
    k, h, w = masks.shape
    boxes = masks.reshape(k, h // PATCH, PATCH, w // PATCH, PATCH)
    return boxes.sum((2, 4), dtype=np.float32).reshape(k, -1) / PATCH**2


def _levels(maps: Any, owner: Any, regions: int) -> Any:
    """(P,) int64: 0 region, else the level of most of the owner's pixels in the patch."""
    whole, part, sub = maps
    h, w = whole.shape[0] // PATCH, whole.shape[1] // PATCH

    def tiles(m: Any) -> Any:
        return m.reshape(h, PATCH, w, PATCH).transpose(0, 2, 1, 3).reshape(h * w, -1)

    mine = tiles(whole) == owner[:, None]
    in_sub = (mine & (tiles(sub) > 0)).sum(1)
    in_part = (mine & (tiles(part) > 0)).sum(1) - in_sub
    in_body = mine.sum(1) - in_part - in_sub
    deepest = np.stack([in_body, in_part, in_sub]).argmax(0) + 1
    return np.where(owner <= regions, 0, deepest).astype(np.int64)


def _extent(present: Any) -> Any:
    """(4,K,P) float32: patch steps from each patch to the first and last row and column of k."""
    k, p = present.shape
    side = int(p**0.5)
    y, x = np.divmod(np.arange(p), side)
    out = np.zeros((4, k, p), np.float32)
    for i in range(k):
        ys, xs = y[present[i]], x[present[i]]
        out[:, i] = y - ys.min(), ys.max() - y, x - xs.min(), xs.max() - x
    return out / side


def places(patches: int) -> Tensor:
    """(P,16) waves of each patch's row and column: linear in features that say where they are."""
    side = round(patches**0.5)
    y, x = np.divmod(np.arange(patches), side)
    turns = np.pi * np.stack([x, y]) / (side - 1) * np.arange(1, 5)[:, None, None]
    waves = np.concatenate([np.sin(turns), np.cos(turns)]).reshape(16, patches)
    return torch.from_numpy(waves.T.astype(np.float32))


def draw_shifts(images: int, rng: np.random.Generator, still: float = 0.0) -> Any:
    """(B,2) int64 rows and columns to shift the position table by; a share of `still` images by 0."""
    moved = rng.integers(VIEW // PATCH, size=(images, 2))
    return np.where(rng.random((images, 1)) < still, 0, moved)


def shifted(encoder: Any, images: Tensor, shifts: Any) -> Tensor:
    """(B,P,C) features of `images` where image b's position table is rolled by `shifts[b]`."""
    embed = encoder.embeddings
    table, side = embed.position_embeddings, VIEW // PATCH
    grid = table[:, 1:].unflatten(1, (side, side))
    rolled = [grid.roll((int(y), int(x)), (1, 2)).flatten(1, 2) for y, x in shifts]
    start = torch.cat([embed.cls_token + table[:, :1], embed.register_tokens], 1)
    tokens = embed.patch_embeddings(images) + torch.cat(rolled)
    out = encoder.encoder(torch.cat([start.expand(len(images), -1, -1), tokens], 1))
    features: Tensor = encoder.layernorm(out.last_hidden_state)[:, 1 + REGISTERS :]
    return features


def change(a: Tensor, b: Tensor) -> Tensor:
    """Distance of two views' features (B,P,C) of the same images, in units of their variance."""
    return (a - b).square().mean() / a.detach().var()


def loss_terms(
    patches: Tensor, extent: nn.Module, place: nn.Module | None, read: nn.ModuleDict, data: Batch
) -> Any:
    """The loss, and the share of right answers per attribute for things (level: for patches).

    place  None: where a patch stands is not asked.
    """
    where = patches.new_zeros(())
    if place is not None:
        told = place(patches)
        where = F.mse_loss(told, places(patches.shape[1]).expand(len(patches), -1, -1))
    rows = data.owner.flatten()
    clear = data.share.flatten() > 0.4
    flat = patches.flatten(0, 1)
    pooled = torch.einsum("kp,kpc->kc", data.cover, patches[data.image_of])
    loss, right = 0.5 * F.l1_loss(extent(patches).transpose(1, 2), data.extent) + 10 * where, {}
    for a, name in enumerate(ATTRIBUTES):
        single = data.level.flatten() if name == "level" else data.labels[rows, a]
        keep = clear & (single >= 0)
        if name.startswith("part_"):
            # A patch of the body need not know the part; the mean over the thing must.
            keep &= (single == 0) | (data.level.flatten() >= LEVELS.index("part"))
        weight = 3.0 if name == "part_shape" else 1.0  # by far the slowest to learn
        loss = loss + 0.5 * weight * F.cross_entropy(read[name](flat[keep]), single[keep])
        if name == "level":
            answer, truth = read[name](flat[keep]), single[keep]
        else:
            mine = data.labels[:, a] >= 0
            answer, truth = read[name](pooled[mine]), data.labels[mine, a]
            loss = loss + weight * F.cross_entropy(answer, truth)
        right[name] = (answer.argmax(1) == truth).float().mean().item()
    right["place error"] = where.item()
    return loss, right
