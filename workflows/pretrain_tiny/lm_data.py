"""Training data of the tiny language model: frozen features of scenes, and expressions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.encoders import build_encoder
from svp.pipeline.recipe import FeatureConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend

CHUNK = 16


@dataclass(frozen=True)
class RisData:
    """features (N,256,96) float16, sam (N,64,16,16) float16, labels (N,H,W) uint8 of whole things.

    phrases  per scene, (text, label) pairs
    """

    features: NDArray[np.float16]
    sam: NDArray[np.float16]
    labels: NDArray[np.uint8]
    phrases: list[list[tuple[str, int]]]


def lm_data(count: int, seed: int, folder: Path, *, split: str = "train") -> RisData:
    """Scenes 0..count-1 of `seed`, made once."""
    path = folder / f"ris_{split}_{seed}_{count}"
    if not (path / "phrases.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        _make(count, seed, split, path)
    arrays = [
        np.load(path / f"{name}.npy", mmap_mode="r") for name in ("features", "sam", "labels")
    ]
    phrases = [
        [(t, k) for t, k in scene] for scene in json.loads((path / "phrases.json").read_text())
    ]
    return RisData(*arrays, phrases)


def _make(count: int, seed: int, split: str, path: Path) -> None:
    where = LocalPaths(Path())
    encoder, sam = (
        build_encoder(FeatureConfig(), where, "cpu"),
        build_backend(SuperpixelConfig(), where),
    )
    out: dict[str, Any] = {}
    phrases = []
    for start in range(0, count, CHUNK):
        made = [make_scene(seed, i, split) for i in range(start, min(count, start + CHUNK))]
        images = [m.image for m in made]
        rows = {
            "features": encoder.encode(images).patches.astype(np.float16),
            "sam": sam.embed(images).numpy().astype(np.float16),
            "labels": np.stack([m.labels.whole for m in made]).astype(np.uint8),
        }
        for name, values in rows.items():
            if name not in out:
                shape = (count, *values.shape[1:])
                out[name] = np.lib.format.open_memmap(
                    path / f"{name}.npy", "w+", values.dtype, shape
                )
            out[name][start : start + len(made)] = values
        for m in made:
            first = len(m.scene.regions) + 1
            phrases.append([(p.text, first + p.target) for p in m.phrases])
    for array in out.values():
        array.flush()
    (path / "phrases.json").write_text(json.dumps(phrases))
