"""Training scenes as plain arrays, computed once and stored beside the checkpoints."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.datasets.scenes.attributes import scene_attributes


class SceneArrays:
    """Scenes 0..count-1 of a seed's `train` split.

    images  (N,H,W,3) uint8; labels (N,3,H,W) uint8: whole, part, sub; regions (N,) int64
    attributes  N arrays (K,A) int64, see `scene_attributes`
    """

    def __init__(self, count: int, seed: int, folder: Path | None = None) -> None:
        path = folder / f"scenes_{seed}_{count}.npz" if folder else None
        if path is None or not path.exists():
            arrays = _make(count, seed)
            if path is not None:
                np.savez(path.with_suffix(".part.npz"), **arrays)
                path.with_suffix(".part.npz").replace(path)
        else:
            with np.load(path) as file:
                arrays = dict(file)
        self.images, self.labels = arrays["images"], arrays["labels"]
        self.regions = arrays["regions"]
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
