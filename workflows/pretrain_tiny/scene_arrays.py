"""Training scenes as plain arrays, computed once and stored beside the checkpoints."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.datasets import world2
from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.datasets.scenes.attributes import scene_attributes


class SceneArrays:
    """Scenes 0..count-1 of a seed's `train` split in world 1 or 2.

    images  (N,H,W,3) uint8; labels (N,3,H,W) uint8: whole, part, sub; regions (N,) int64
    attributes  N arrays (K,A) int64, see `scene_attributes`
    """

    def __init__(self, count: int, seed: int, folder: Path | None = None, world: int = 1) -> None:
        name = f"scenes_{seed}_{count}" if world == 1 else f"world{world}_{seed}_{count}"
        path = folder / f"{name}.npz" if folder else None
        if path is None or not path.exists():
            arrays = _make(count, seed) if world == 1 else _make_world2(count, seed)
            if path is not None:
                np.savez(path.with_suffix(".part.npz"), **arrays)
                path.with_suffix(".part.npz").replace(path)
        else:
            with np.load(path) as file:
                arrays = dict(file)
        self.images, self.labels = arrays["images"], arrays["labels"]
        self.regions = arrays["regions"]
        if world == 1:
            self.attributes = np.split(arrays["attributes"], np.cumsum(arrays["objects"])[:-1])


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The random choices of one step depend on (seed, step) only, so a resumed run is the same."""
    return np.random.default_rng([seed, step])


def _make(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    made = [make_scene(seed, i) for i in range(count)]
    rows = [scene_attributes(m.scene) for m in made]
    return {
        "images": np.stack([m.image for m in made]),
        "labels": np.stack([np.stack([m.labels.whole, m.labels.part, m.labels.sub]) for m in made]),
        "regions": np.array([len(m.scene.regions) for m in made]),
        "objects": np.array([len(r) for r in rows]),
        "attributes": np.concatenate(rows),
    }


def _make_world2(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Every difficulty in turn. No part is a mask of its own: the tiny SAM cuts whole things."""
    made = [world2.make_scene(seed, i, difficulty=25 * (i % 5)) for i in range(count)]
    whole = np.stack([m.labels.whole for m in made])
    nothing = np.zeros_like(whole)
    return {
        "images": np.stack([m.image for m in made]),
        "labels": np.stack([whole, nothing, nothing], axis=1),
        "regions": np.array([len(m.scene.regions) for m in made]),
    }
