"""Make one scene of world 2 from (seed, split, index, difficulty): description, image, labels,
expressions.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..scenes.make import SPLITS
from ..scenes.rng import Rng
from .painting import Labels, paint
from .phrases import Phrase, describe
from .sampling import Scene, sample_scene

SIZE: Final = (128, 128)
DIFFICULTY: Final = 50
_WORLD: Final = 2  # part of the key: no scene of world 1 has the same stream


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
        return (*(region.name for region in regions), *(thing.silhouette for thing in things))


def make_scene(
    seed: int,
    index: int,
    split: str = "train",
    size: tuple[int, int] = SIZE,
    difficulty: int = DIFFICULTY,
) -> MadeScene:
    """Scene `index` of a split; `size` is (height, width), 96 to 1024 px each, `difficulty` 0-100.

    It is the same whatever else is made; splits have separate streams. Raises ConfigError.
    """
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: allowed are {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ConfigError(f"seed={seed}, index={index}: need >= 0")
    if not all(96 <= side <= 1024 for side in size):
        raise ConfigError(f"size={size}: each side needs 96 to 1024 pixels")
    if not 0 <= difficulty <= 100:
        raise ConfigError(f"difficulty={difficulty}: need 0 to 100")
    key = (_WORLD, seed, SPLITS.index(split), index, *size, difficulty)
    scene = sample_scene(Rng(*key), *size, difficulty)
    image, labels = paint(scene)
    # A stream of its own: a change of the language leaves the pictures as they are.
    return MadeScene(scene, image, labels, describe(scene, Rng(*key, 1)))
