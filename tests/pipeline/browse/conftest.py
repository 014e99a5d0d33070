"""Real caches of photographs that scikit-image ships: SLIC superpixels, with overlaps and holes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import slic

from svp.pipeline.cache.create import create_cache
from svp.pipeline.cache.plan import Plan, PlanImage
from svp.pipeline.cache.writer import write_shard
from svp.pipeline.masks import rle
from svp.pipeline.recipe import Recipe
from svp.pipeline.records import ImageRow, Quarantined, Superpixels

MakeCache = Callable[..., Path]


def superpixels_from(masks: list[NDArray[np.bool_]], fallback: bool = False) -> Superpixels:
    """Superpixels with the given masks: wholes first, then parts, then sub-parts."""
    n, (height, width) = len(masks), masks[0].shape
    corners = [np.argwhere(mask) for mask in masks]
    low, high = [c.min(0)[::-1] for c in corners], [c.max(0)[::-1] for c in corners]
    return Superpixels(
        height=height,
        width=width,
        rles=tuple(rle.encode(mask).counts for mask in masks),
        level=2 - np.arange(n, dtype=np.uint8) * 3 // n,
        predicted_iou=np.linspace(0.97, 0.87, n, dtype=np.float32),
        stability=np.linspace(0.99, 0.93, n, dtype=np.float32),
        area=np.array([mask.sum() for mask in masks], np.int32),
        box=np.concatenate([low, high], axis=1).astype(np.int32),
        point=np.array([c[len(c) // 2][::-1] for c in corners], np.float32),
        crop=np.tile(np.array([0, 0, width, height], np.int32), (n, 1)),
        fallback=fallback,
        survivors={"prompts": 100 * n, "kept": n},
    )


def segment(image: NDArray[np.uint8], segments: int) -> list[NDArray[np.bool_]]:
    """SLIC masks: the first grown over its neighbours (overlap), every seventh left out (hole)."""
    labels = slic(image, n_segments=segments, compactness=12, start_label=0)
    masks = [labels == label for label in range(labels.max() + 1) if label % 7 != 3]
    grown = masks[0].copy()
    grown[: grown.shape[0] // 3, : grown.shape[1] // 3] = True
    return [grown, *masks[1:]]


@pytest.fixture(scope="session")
def photographs() -> dict[str, NDArray[np.uint8]]:
    """Three photographs, at most 200 pixels a side."""
    full = {name: getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea")}
    return {name: np.ascontiguousarray(image[::3, ::3]) for name, image in full.items()}


@pytest.fixture(scope="session")
def images_root(
    photographs: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The photographs as files."""
    root = tmp_path_factory.mktemp("photographs")
    for name, image in photographs.items():
        Image.fromarray(image).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="session")
def found(photographs: dict[str, NDArray[np.uint8]]) -> dict[str, Superpixels]:
    """Superpixels of each photograph; `chelsea` is a fallback."""
    some = {name: superpixels_from(segment(photographs[name], 24)) for name in photographs}
    whole = np.ones(photographs["chelsea"].shape[:2], bool)
    return {**some, "chelsea": superpixels_from([whole], fallback=True)}


@pytest.fixture(scope="session")
def make_cache(
    found: dict[str, Superpixels], tmp_path_factory: pytest.TempPathFactory
) -> MakeCache:
    """Writes a cache of the photographs; file names, bad images and unfinished ones on request."""

    def build(
        names: dict[str, str] | None = None,
        bad: dict[str, tuple[str, str]] | None = None,
        split: str = "train",
        unfinished: int = 0,
    ) -> Path:
        named = {name: f"{name}.png" for name in found} if names is None else names
        bad = bad or {}
        images = [
            PlanImage(row, named[name], found[name].height, found[name].width, 1, "0" * 16)
            for row, name in enumerate(named, 1)
        ]
        images += [PlanImage(100 + i, path, 0, 0, 0, "") for i, path in enumerate(bad)]
        done = len(images)
        images += [PlanImage(200 + i, f"x/{i}.jpg", 9, 9, 1, "0" * 16) for i in range(unfinished)]
        recipe = Recipe(libraries={"torch": "2.10.0", "numpy": "2.1.0"})
        plan = Plan(recipe, tuple(images), (2, 2), 4, (4, 4), split=split, shard_size=done)
        cache = tmp_path_factory.mktemp("cache")
        create_cache(cache, plan)
        rows = [_row(image, found[name]) for image, name in zip(images, named, strict=False)]
        why = [Quarantined(100 + i, *reason) for i, reason in enumerate(bad.values())]
        write_shard(cache, plan, 0, [*rows, *why], {})
        return cache

    return build


def _row(image: PlanImage, superpixels: Superpixels) -> ImageRow:
    n = len(superpixels)
    return ImageRow(
        image_id=image.image_id,
        superpixels=superpixels,
        patches=np.zeros((4, 4), np.float16),
        cover=np.zeros((n, 4), np.float16),
        sspe_masks=np.zeros((n, 2), np.uint8),
    )
