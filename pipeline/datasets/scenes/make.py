"""Make one scene from (seed, split, index): description, image, labels and expressions.

Scene (seed, split, index) is the same whatever else is made; splits have separate streams, so no
scene of one split can appear in another.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .language import Phrase, describe
from .render import Labels, draw
from .rng import Rng
from .world import Scene, sample_scene

SPLITS: Final = ("train", "val", "testA", "testB")
SIZE: Final = (128, 128)


@dataclass(frozen=True, slots=True)
class MadeScene:
    """A scene and all that is known about it; `image` is (H,W,3) uint8 RGB."""

    scene: Scene
    image: NDArray[np.uint8]
    labels: Labels
    phrases: tuple[Phrase, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The category of each label of `labels.whole`, from label 1 on."""
        regions, things = self.scene.regions, self.scene.things
        return (*(region.name for region in regions), *(thing.shape for thing in things))


def scene_key(
    seed: int, index: int, split: str, size: tuple[int, int], *, smallest: int
) -> tuple[int, ...]:
    """Key of a scene's random numbers. Raises ConfigError for what no scene can have."""
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: allowed are {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ConfigError(f"seed={seed}, index={index}: need >= 0")
    if not all(smallest <= side <= 1024 for side in size):
        raise ConfigError(f"size={size}: each side needs {smallest} to 1024 pixels")
    return (seed, SPLITS.index(split), index, *size)


def make_scene(
    seed: int,
    index: int,
    split: str = "train",
    size: tuple[int, int] = SIZE,
    *,
    absent: bool = False,
) -> MadeScene:
    """Scene `index` of a split; `size` is (height, width), 64 to 1024 pixels each.

    absent  with expressions that are true of nothing in it, after the others
    """
    key = scene_key(seed, index, split, size, smallest=64)
    scene = sample_scene(Rng(*key), *size)
    image, labels = draw(scene)
    # A stream of its own: a change of the language leaves the pictures as they are.
    return MadeScene(scene, image, labels, describe(scene, Rng(*key, 1), absent=absent))
