"""Training task of the tiny SAM: prompts, targets, batched forward pass and loss."""

from typing import Any

import numpy as np
import torch
from scene_arrays import SceneArrays
from scipy.ndimage import find_objects
from torch import Tensor, nn
from torch.nn import functional as F

LOW = 64  # side of the low-resolution masks
ON_ANYTHING, ON_THING = 0.45, 0.38  # shares of points; the rest lie on parts and sub-parts


def initialise(sam: nn.Module) -> None:
    """Let the decoder's attention start local: queries and keys share one projection.

    Points and image use the same Fourier code, so q = k compares places; without this the loss
    stays for hundreds of steps where every mask is the same constant.
    """
    for name, module in sam.named_modules():
        if name.startswith("mask_decoder.transformer") and hasattr(module, "q_proj"):
            with torch.no_grad():
                module.q_proj.weight.mul_(2.0)
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.q_proj.bias.zero_()
                module.k_proj.bias.zero_()


def batch(
    data: SceneArrays, rng: np.random.Generator, images: int, points: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (B,3,H,W) float, points (B,P,2) x y, targets (B,P,3,LOW,LOW), aux (B,8,LOW,LOW)."""
    pictures, xy, targets, aux = [], [], [], []
    for k in rng.integers(len(data.images), size=images):
        image, labels = _turn(data.images[k], data.labels[k], rng)
        where = _sample_points(labels, int(data.regions[k]), rng, points)
        pictures.append(image)
        xy.append(where[:, ::-1])
        targets.append(_targets(labels, where))
        aux.append(_boxes(labels))
    return (
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float(),
        torch.from_numpy(np.stack(xy).astype(np.float32)),
        torch.from_numpy(np.stack(targets)),
        torch.from_numpy(np.stack(aux)),
    )


def _turn(image: Any, labels: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """One of 8 flips and turns, and one of 6 orders of the colour channels."""
    flip, turn = rng.integers(2), rng.integers(4)
    image = image[..., rng.permutation(3)]
    if flip:
        image, labels = image[:, ::-1], labels[:, :, ::-1]
    image, labels = np.rot90(image, turn, (0, 1)), np.rot90(labels, turn, (1, 2))
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _sample_points(labels: Any, regions: int, rng: np.random.Generator, count: int) -> Any:
    """(count, 2) int: y, x."""
    whole, part, sub = labels
    height, width = whole.shape
    things = np.arange(regions + 1, whole.max() + 1)
    parts, subs = np.unique(part)[1:], np.unique(sub)[1:]
    out = np.empty((count, 2), np.int64)
    for i, u in enumerate(rng.random(count)):
        if u < ON_ANYTHING:
            pool = None
        elif u < ON_ANYTHING + ON_THING or not len(parts):
            pool = whole == rng.choice(things)
        elif len(subs) and rng.random() < 0.35:
            pool = sub == rng.choice(subs)
        else:
            pool = part == rng.choice(parts)
        if pool is None:
            out[i] = rng.integers(height), rng.integers(width)
        else:
            flat = np.flatnonzero(pool)
            out[i] = divmod(int(flat[rng.integers(len(flat))]), width)
    return out


def _targets(labels: Any, where: Any) -> Any:
    """(P,3,LOW,LOW) float32: share of each low-resolution cell in the deepest, the part, the whole."""
    whole, part, sub = labels
    masks = []
    for y, x in where:
        of_whole = whole == whole[y, x]
        of_part = part == part[y, x] if part[y, x] else of_whole
        masks.append((sub == sub[y, x] if sub[y, x] else of_part, of_part, of_whole))
    full = np.asarray(masks).view(np.uint8)
    rows = full[:, :, ::2] + full[:, :, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)


def _boxes(labels: Any) -> Any:
    """(8,LOW,LOW) float32: steps to the four sides of the whole's, then the part's, extent."""
    whole, part, _ = (m[1::2, 1::2].astype(np.int64) for m in labels)
    deep = np.where(part > 0, part + whole.max(), whole)
    return np.concatenate([_extent(whole), _extent(deep)])


def _extent(ids: Any) -> Any:
    y, x = np.mgrid[: ids.shape[0], : ids.shape[1]]
    sides = np.zeros((int(ids.max()) + 1, 4), np.float32)
    for k, box in enumerate(find_objects(ids), 1):
        if box is not None:
            sides[k] = box[0].start, box[0].stop - 1, box[1].start, box[1].stop - 1
    top, bottom, left, right = sides[ids].transpose(2, 0, 1)
    return np.sqrt(np.stack([y - top, bottom - y, x - left, right - x]) / LOW).astype(np.float32)


def forward(sam: Any, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding (B,C,h,w), logits (B*P,4,LOW,LOW), predicted IoU (B*P,4); many images at once.

    The same arithmetic as `Sam.forward` with one point per prompt, which loops over images.
    """
    b, p, _ = points.shape
    embedding = sam.image_encoder((images - sam.pixel_mean) / sam.pixel_std)
    coords = points.reshape(b * p, 1, 2)
    sparse, dense = sam.prompt_encoder(
        points=(coords, torch.ones(b * p, 1, dtype=torch.int)), boxes=None, masks=None
    )
    decoder = sam.mask_decoder
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens.expand(b * p, -1, -1), sparse], 1)
    source = embedding.repeat_interleave(p, 0) + dense
    places = sam.prompt_encoder.get_dense_pe().expand(b * p, -1, -1, -1)
    hidden, keys = decoder.transformer(source, places, tokens)
    fine = decoder.output_upscaling(keys.transpose(1, 2).reshape(source.shape))
    mix = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1
    )
    logits = (mix @ fine.flatten(2)).unflatten(2, fine.shape[2:])
    return embedding, logits, decoder.iou_prediction_head(hidden[:, 0])


def loss_terms(logits: Tensor, iou: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and, for the log, the mean IoU of the outputs (4: single mask and three levels).

    2 BCE + 2 dice + squared error of the predicted IoU; the single mask learns the whole.
    """
    targets = torch.cat([targets[:, 2:], targets], 1)
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((2, 3))
    # Small masks would hardly count in a mean over pixels: weigh each by its own size.
    share = targets.mean((2, 3)).clamp(0.02, 0.5)
    bce = bce * (0.15 / share).sqrt()
    chance = logits.sigmoid()
    overlap = (chance * targets).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (chance.sum((2, 3)) + targets.sum((2, 3)) + 1)
    with torch.no_grad():
        hard, truth = logits > 0, targets > 0.5
        both = (hard & truth).sum((2, 3)).float()
        true_iou = both / (hard | truth).sum((2, 3)).clamp(min=1)
    error = (iou - true_iou).square()
    return (2 * bce + 2 * dice + error).mean(), true_iou.mean(0)
