"""Training task of the tiny encoder in world 2: what each patch shows of its thing, and no more.

A patch learns the labels of `world2.patch_labels` and how much of each of its quarters belongs to a
thing. It is never asked for the turn of a thing nor for what is where on it, and nothing is asked of
a mean over patches: an arrangement of parts is to be found in where the patches are, as in features
of photographs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from encoder_task import places
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from svp.pipeline.datasets.world2 import make_scene
from svp.pipeline.datasets.world2.patch_labels import ATTRIBUTES, patch_labels
from svp.pipeline.encoders.tiny import MEAN, PATCH, STD


@dataclass(frozen=True, slots=True)
class Batch:
    """images (B,3,H,W); labels (B,P,A) int64, -1 where not asked; quarters (B,P,4) in [0,1]."""

    images: Tensor
    labels: Tensor
    quarters: Tensor


class PatchArrays:
    """Scenes 0..count-1 of a seed's `train` split, every difficulty in turn, with patch labels."""

    def __init__(self, count: int, seed: int, folder: Path) -> None:
        path = folder / f"patches_{seed}_{count}.npz"
        if not path.exists():
            made = [make_scene(seed, k, difficulty=25 * (k % 5)) for k in range(count)]
            rows = [patch_labels(scene, PATCH) for scene in made]
            part = path.with_suffix(".part.npz")
            np.savez(
                part,
                images=np.stack([scene.image for scene in made]),
                labels=np.stack([labels for labels, _ in rows]),
                quarters=np.stack([quarters for _, quarters in rows]),
            )
            part.replace(path)
        with np.load(path) as file:
            self.images, self.labels = file["images"], file["labels"]
            self.quarters = file["quarters"]


def heads(width: int) -> nn.ModuleDict:
    """One linear head per attribute."""
    return nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in ATTRIBUTES.items()})


def batch(data: PatchArrays, picks: NDArray[np.int64]) -> Batch:
    """The scenes `picks`. None is mirrored: a mirror makes a zed an ess."""
    pixels = torch.from_numpy(data.images[picks]).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    quarters = torch.from_numpy(data.quarters[picks]).float() / (PATCH // 2) ** 2
    return Batch(pixels, torch.from_numpy(data.labels[picks]).long(), quarters)


def loss_terms(
    patches: Tensor, quarters: nn.Module, place: nn.Module | None, read: nn.ModuleDict, data: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The loss, and the share of right answers per attribute.

    place  None: where a patch stands is not asked.
    """
    where = patches.new_zeros(())
    if place is not None:
        told = place(patches)
        where = F.mse_loss(told, places(patches.shape[1]).expand(len(patches), -1, -1))
    inside = F.mse_loss(quarters(patches), data.quarters)
    loss, right = 10 * where + 10 * inside, {}
    flat, labels = patches.flatten(0, 1), data.labels.flatten(0, 1)
    for a, name in enumerate(ATTRIBUTES):
        asked = labels[:, a] >= 0
        answer, truth = read[name](flat[asked]), labels[asked, a]
        loss = loss + F.cross_entropy(answer, truth)
        right[name] = (answer.argmax(1) == truth).float().mean().item()
    return loss, right | {"quarters": inside.item(), "place error": where.item()}
