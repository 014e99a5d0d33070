"""Make one scene of world 2 from (seed, split, index, difficulty): description, image, labels,
expressions, captions.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..scenes.make import SIZE, scene_key
from ..scenes.rng import Rng
from .captions import captions
from .painting import Labels, paint
from .phrases import Phrase, describe
from .sampling import Scene, sample_scene

DIFFICULTY: Final = 50
_WORLD: Final = 2  # part of the key: no scene of world 1 has the same stream


@dataclass(frozen=True, slots=True)
class MadeScene:
    """A scene and all that is known about it; `image` is (H,W,3) uint8 RGB."""

    scene: Scene
    image: NDArray[np.uint8]
    labels: Labels
    phrases: tuple[Phrase, ...]
    captions: tuple[str, ...]

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
    scene, phrases, said = make_text(seed, index, split, size, difficulty)
    image, labels = paint(scene)
    return MadeScene(scene, image, labels, phrases, said)


def make_text(
    seed: int,
    index: int,
    split: str = "train",
    size: tuple[int, int] = SIZE,
    difficulty: int = DIFFICULTY,
) -> tuple[Scene, tuple[Phrase, ...], tuple[str, ...]]:
    """The same scene without its image, with expressions and captions. Raises ConfigError."""
    scene, key = _sample(seed, index, split, size, difficulty)
    # Streams of their own: a change of the language leaves the pictures as they are.
    return scene, describe(scene, Rng(*key, 1)), captions(scene, Rng(*key, 2))


def make_layout(
    seed: int,
    index: int,
    split: str = "train",
    size: tuple[int, int] = SIZE,
    difficulty: int = DIFFICULTY,
) -> Scene:
    """The same scene alone, with neither image nor words. Raises ConfigError."""
    return _sample(seed, index, split, size, difficulty)[0]


def _sample(
    seed: int, index: int, split: str, size: tuple[int, int], difficulty: int
) -> tuple[Scene, tuple[int, ...]]:
    """The scene and the key of its random streams."""
    if not 0 <= difficulty <= 100:
        raise ConfigError(f"difficulty={difficulty}: need 0 to 100")
    key = (_WORLD, *scene_key(seed, index, split, size, smallest=96), difficulty)
    return sample_scene(Rng(*key), *size, difficulty), key
