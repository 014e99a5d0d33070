"""`svp bench world2`: whether world 2 asks what it is meant to ask, and what its models see of it.

Linear probes on its scenes (`binding_probe`): what tells twins apart must be in the places of patches
and in full masks, and in nothing coarser. Then the shipped SAM and encoder of that world, on scenes
they were not trained on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..datasets.world2 import MadeScene, make_scene
from ..datasets.world2.patch_labels import ATTRIBUTES, coat_shares, patch_labels
from ..display import Report, counted
from ..encoders import build_encoder
from ..encoders.encoder import Encoder
from ..encoders.tiny import PATCH
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..masks.rle import decode
from ..recipe import FeatureConfig, GridConfig, SuperpixelConfig
from ..records import LocalPaths, Rle
from ..sam import build_backend
from ..superpixels.point_grid import GridPrompter
from ..weights.load import load_state_dict
from .binding_probe import DESCRIPTIONS, accuracies, samples
from .tiny import HELD_OUT, SPLIT

NAME: Final = "tiny-world2"
# Linear heads that read the attributes from the patches of the encoder of that name.
PROBE: Final = Path(__file__).parents[2] / "workflows/tiny/world2/attributes.safetensors"
_FAILS: Final = 0.6
_READS: Final = 0.9
# What each slice must not be told from, and what it must.
_MUST: Final = {
    "parts": (("mean", "box", "cells"), ("patches",)),
    "outline": (("box", "cells"), ("mask",)),
}
_THINGS: Final = 0.80


@dataclass(frozen=True, slots=True)
class World2Report(Report):
    """Share of right answers by slice and description, of two kinds of features; masks and labels.

    truth    probes on the share of each paint and finish in every patch: of the world alone
    encoder  probes on the shipped encoder's features; empty without it
    things, grounds  best superpixel IoU of each, means; `superpixels` per scene, mean
    attributes  share of patches whose label the encoder's linear heads tell; empty without heads
    models   the SAM and the encoder
    """

    scenes: tuple[int, int]
    pictures: int
    truth: Mapping[str, Mapping[str, float]]
    encoder: Mapping[str, Mapping[str, float]]
    things: float
    grounds: float
    superpixels: float
    attributes: Mapping[str, float]
    models: tuple[str, str] = (NAME, NAME)
    missed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "missed", tuple(self._missed()))

    @property
    def exit_code(self) -> int:
        """1 if a bar is missed."""
        return 1 if self.missed else 0

    def to_json(self) -> dict[str, Any]:
        """All figures, for programs."""
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        train, test = self.scenes
        out = [f"linear probes, {counted(train, 'scene')} to fit, {test} held out"]
        for kind, found in (("scene", self.truth), ("encoder", self.encoder)):
            for name, by_description in found.items():
                values = "  ".join(f"{k} {by_description[k]:.3f}" for k in DESCRIPTIONS)
                out.append(f"  features of the {kind:<8}{name:<9}{values}")
        models = ", ".join(dict.fromkeys(self.models))
        out.append(f"{models}, {counted(self.pictures, 'scene')} never trained on")
        for title, value, bar in (
            ("things, best superpixel IoU", self.things, f"  (bar {_THINGS})"),
            ("grounds, best superpixel IoU", self.grounds, ""),
            ("superpixels per scene", self.superpixels, ""),
        ):
            out.append(f"  {title:<30}{value:7.3f}{bar}")
        for name, value in self.attributes.items():
            out.append(f"  {f'patches: {name}':<30}{value:7.3f}  (bar {_READS})")
        out.append(f"missed: {'; '.join(self.missed)}" if self.missed else "every bar is met")
        return tuple(out)

    def _missed(self) -> Iterator[str]:
        for kind, found in (("scene", self.truth), ("encoder", self.encoder)):
            for name, (hidden, told) in _MUST.items():
                for description in hidden if name in found else ():
                    if (value := found[name][description]) > _FAILS:
                        yield f"{name} from {description} ({kind}) {value:.3f} > {_FAILS}"
                for description in told if name in found else ():
                    if (value := found[name][description]) < _READS:
                        yield f"{name} from {description} ({kind}) {value:.3f} < {_READS}"
        if self.things < _THINGS:
            yield f"things {self.things:.3f} < {_THINGS}"
        for name, value in self.attributes.items():
            if value < _READS:
                yield f"{name} {value:.3f} < {_READS}"


def measure(
    scenes: int = 600,
    pictures: int = 40,
    *,
    points_per_side: int = 16,
    sam: str = NAME,
    encoder: str = NAME,
) -> World2Report:
    """Probe `scenes` scenes, and a third as many held-out ones; `pictures` of these for the models.

    sam, encoder  rows of `SAMS` and `ENCODERS` with shipped weights

    About 0.1 s a scene, and a second a picture, on one core.
    """
    test = max(2, scenes // 3)
    reads = _encoder(encoder)
    fit = list(_scenes("train", scenes))
    held_out = list(_scenes(SPLIT, test))
    truth = accuracies(*(samples(map(_told, made)) for made in (fit, held_out)))
    seen: dict[str, dict[str, float]] = {}
    attributes: dict[str, float] = {}
    if reads is not None:
        seen = accuracies(
            *(samples((m, _features(reads, m)) for m in made) for made in (fit, held_out))
        )
        attributes = measure_patches(reads, held_out) if encoder == NAME else {}
    shown = held_out[: min(pictures, test)]
    return World2Report(
        (scenes, test), len(shown), truth, seen, **measure_things(shown, points_per_side, sam),
        attributes=attributes, models=(sam, encoder),
    )  # fmt: skip


def measure_things(
    made: list[MadeScene], points_per_side: int, sam: str = NAME
) -> dict[str, float]:
    """The figures of `World2Report` that depend on the SAM."""
    config = SuperpixelConfig(source=SAMS[sam].source, model=sam)
    backend = build_backend(config, LocalPaths(Path()), "cpu")
    prompter = GridPrompter(backend, config=GridConfig(points_per_side=points_per_side))
    things: list[float] = []
    grounds: list[float] = []
    counts: list[int] = []
    for scene in made:
        found = prompter.generate(scene.image)
        rles = [Rle(found.height, found.width, counts_) for counts_ in found.rles]
        masks = np.stack([decode(rle).astype(np.bool_) for rle in rles])
        counts.append(0 if found.fallback else len(found))
        for label in range(1, len(scene.names) + 1):
            truth = scene.labels.whole == label
            both, either = (masks & truth).sum((1, 2)), (masks | truth).sum((1, 2))
            best = float((both / either).max())
            (grounds if label <= len(scene.scene.regions) else things).append(best)
    return {
        "things": float(np.mean(things)),
        "grounds": float(np.mean(grounds)),
        "superpixels": float(np.mean(counts)),
    }


def measure_patches(encoder: Encoder, made: list[MadeScene]) -> dict[str, float]:
    """Share of right answers of the shipped linear heads, by attribute, over labelled patches."""
    state = {k: v.double().numpy() for k, v in load_state_dict(PROBE).items()}
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ATTRIBUTES}
    for scene in made:
        patches = encoder.encode([scene.image]).patches[0].astype(np.float64)
        labels, _ = patch_labels(scene, PATCH)
        for a, name in enumerate(ATTRIBUTES):
            asked = labels[:, a] >= 0
            said = patches[asked] @ state[f"{name}.weight"].T + state[f"{name}.bias"]
            right[name].append(said.argmax(1) == labels[asked, a])
    return {name: float(np.concatenate(found).mean()) for name, found in right.items()}


def _encoder(name: str) -> Encoder | None:
    if not (Path(__file__).parents[2] / ENCODERS[name].shipped).is_file():
        return None
    return build_encoder(FeatureConfig(encoder=name, size=128), LocalPaths(Path()), "cpu")


def _scenes(split: str, count: int) -> Iterator[MadeScene]:
    """Every difficulty in turn."""
    return (make_scene(HELD_OUT, k, split, difficulty=25 * (k % 5)) for k in range(count))


def _told(made: MadeScene) -> tuple[MadeScene, NDArray[np.float64]]:
    side = made.labels.whole.shape[0] // PATCH
    return made, coat_shares(made, PATCH).reshape(side, side, -1)


def _features(encoder: Encoder, made: MadeScene) -> NDArray[np.float64]:
    patches = encoder.encode([made.image]).patches[0]
    return np.asarray(patches.reshape(*encoder.grid, -1), np.float64)
