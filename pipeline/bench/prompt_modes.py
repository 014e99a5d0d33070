"""Effect of `fast` mode and of hierarchical prompting on the superpixels of the shipped tiny SAM.

The same generated scenes, weights and grid; only mode and dtype differ, or which points of the grid
are prompted. On a CPU `fast` means the shared-layer decoder and the fused up-sampling (fp32), and
autocast (bf16).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..recipe import GridConfig, SuperpixelConfig
from ..records import LocalPaths, Superpixels
from ..superpixels.generator import build_generator

VARIANTS: dict[str, SuperpixelConfig] = {
    "fast float32": SuperpixelConfig(mode="fast"),
    "fast bfloat16": SuperpixelConfig(mode="fast", dtype="bfloat16"),
}


PARTNER = 0.9  # IoU of two superpixels that count as the same one


def difference(exact: Sequence[Superpixels], other: Sequence[Superpixels]) -> dict[str, float]:
    """Compare `other` with `exact`, image by image; superpixels match by prompt, crop, level.

    missing, added: superpixels without a partner; changed: partners with any other pixel;
    images: images with any of these; pixels_flipped: differing pixels per matched pixel.
    """
    rows = np.array([_compare(*pair) for pair in zip(exact, other, strict=True)], np.int64)
    rows = rows.reshape(-1, 5)
    missing, added, changed, flipped, total = rows.sum(0).tolist()
    return {
        "superpixels": sum(len(one) for one in exact),
        "missing": missing,
        "added": added,
        "changed": changed,
        "images": int(rows[:, :3].any(axis=1).sum()),
        "pixels_flipped": flipped / max(total, 1),
    }


def compare_modes(
    scenes: int, *, seed: int = 9000, points_per_side: int = 16, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """`difference` of each variant from exact mode on `scenes` generated held-out scenes."""
    from ..datasets.scenes import make_scene

    images = [make_scene(seed, index, "testA").image for index in range(scenes)]
    exact = _superpixels(SuperpixelConfig(), images, points_per_side, device)
    return {
        name: difference(exact, _superpixels(config, images, points_per_side, device))
        for name, config in VARIANTS.items()
    }


def agreement(dense: Sequence[Superpixels], other: Sequence[Superpixels]) -> dict[str, float]:
    """Agreement of two sets of superpixels of the same images, and what the second one saves.

    found, real: shares of the superpixels of `dense`, and of `other`, with a partner of IoU >= 0.9
    in the other set; mean_dense, mean_other: superpixels per image; prompts: per image of `other`;
    saved: share of the prompts of `dense` that `other` does without.
    """
    from pycocotools import mask as coco

    hits, counts, prompts = np.zeros(2), np.zeros(2), np.zeros(2)
    for pair in zip(dense, other, strict=True):
        ours, theirs = ([mask.coco() for mask in one.masks()] for one in pair)
        iou = coco.iou(ours, theirs, [0] * len(theirs)) >= PARTNER
        hits += [iou.any(1).sum(), iou.any(0).sum()]
        counts += [len(one) for one in pair]
        prompts += [one.survivors["decoded"] / 3 for one in pair]
    found, real = (hits / counts).tolist()
    mean_dense, mean_other = (counts / len(dense)).tolist()
    return {
        "images": len(dense), "found": found, "real": real, "mean_dense": mean_dense,
        "mean_other": mean_other, "prompts": float(prompts[1]) / len(dense),
        "saved": 1 - float(prompts[1] / prompts[0]),
    }  # fmt: skip


def compare_hierarchical(
    scenes: int, *, seed: int = 9000, points_per_side: int = 32, device: str = "cpu"
) -> dict[str, float]:
    """`agreement` of hierarchical prompting with its whole grid, on generated held-out scenes."""
    from ..datasets.scenes import make_scene

    images = [make_scene(seed, index, "testA").image for index in range(scenes)]
    whole, part = (
        _superpixels(SuperpixelConfig(), images, points_per_side, device, preset)
        for preset in ("custom", "hierarchical")
    )
    return agreement(whole, part)


def _superpixels(
    config: SuperpixelConfig,
    images: Sequence[NDArray[np.uint8]],
    points: int,
    device: str,
    preset: str = "custom",
) -> list[Superpixels]:
    grid = {"preset": preset, "grid": GridConfig(points_per_side=points)}
    source = build_generator(config.model_copy(update=grid), LocalPaths(images=Path()), device)
    return source.generate_batch(images)[0]


def _compare(exact: Superpixels, other: Superpixels) -> tuple[int, int, int, int, int]:
    """missing, added, changed, flipped pixels, pixels of the matched superpixels."""
    from pycocotools import mask as coco

    first, second = _by_prompt(exact), _by_prompt(other)
    both = first.keys() & second.keys()
    flipped = total = changed = 0
    for key in both:
        pair = [exact.masks()[first[key]].coco(), other.masks()[second[key]].coco()]
        areas = coco.area(pair).astype(np.int64)
        flips = int(areas.sum()) - 2 * int(coco.area(coco.merge(pair, intersect=True)))
        flipped, total, changed = flipped + flips, total + int(areas[0]), changed + (flips > 0)
    return len(first) - len(both), len(second) - len(both), changed, flipped, total


def _by_prompt(found: Superpixels) -> dict[tuple[float, ...], int]:
    keys = zip(found.crop.tolist(), found.point.tolist(), found.level.tolist(), strict=True)
    return {(*crop, *point, level): i for i, (crop, point, level) in enumerate(keys)}
