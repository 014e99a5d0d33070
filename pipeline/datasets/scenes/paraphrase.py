"""The expressions of scenes in other words: synonyms and phrases that no scene's expression has.

Every colour, shape, texture, size, place, relation and ground is said otherwise, so that a model
that learned its words from scenes alone has never read them. Which of several synonyms stands for a
word depends on the expression and the place alone.
"""

import re
import zlib
from typing import Final

from .rng import Rng

# What scenes say -> what is said instead; longer phrases are looked for first.
SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine", "amber"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "olive"),
    "blue": ("navy", "azure"),
    "purple": ("violet", "lilac"),
    "pink": ("rosy", "salmon"),
    "black": ("ebony", "dark"),
    "disc": ("circle", "round shape"),
    "square": ("box", "cube"),
    "triangle": ("pyramid", "wedge"),
    "diamond": ("rhombus", "lozenge"),
    "cross": ("plus sign", "plus"),
    "bar": ("plank", "beam"),
    "post": ("pillar", "column"),
    "dome": ("semicircle", "half circle"),
    "striped": ("banded", "lined"),
    "dotted": ("spotted", "speckled"),
    "checked": ("chequered", "plaid"),
    "small": ("tiny", "little"),
    "medium": ("average-sized", "moderate"),
    "large": ("vast", "huge"),
    "smallest": ("tiniest", "littlest"),
    "largest": ("biggest", "hugest"),
    "leftmost": ("westernmost", "far-left"),
    "rightmost": ("easternmost", "far-right"),
    "top": ("uppermost", "highest"),
    "bottom": ("lowest", "lowermost"),
    "middle": ("central", "centre"),
    "second": ("number two", "next-placed"),
    "from the left": ("counting from the west", "starting at the western side"),
    "from the right": ("counting from the east", "starting at the eastern side"),
    "left of": ("west of", "on the western side of"),
    "right of": ("east of", "on the eastern side of"),
    "above": ("over", "higher than"),
    "below": ("under", "beneath"),
    "in front of": ("overlapping", "covering"),
    "behind": ("hidden by", "partly covered by"),
    "with": ("that has", "bearing"),
    "on the sky": ("up in the air", "against the heavens"),
    "on the grass": ("upon the lawn", "atop the meadow"),
    "on the sand": ("upon the beach", "atop the desert"),
    "on the wall": ("upon the bricks", "against the brickwork"),
    "on the floor": ("upon the ground", "atop the carpet"),
    "on the water": ("upon the sea", "atop the lake"),
    "on the snow": ("upon the ice", "atop the frost"),
    "on the stone": ("upon the rock", "atop the gravel"),
}
_SAID = re.compile("|".join(rf"\b{words}\b" for words in sorted(SYNONYMS, key=len, reverse=True)))
_ARTICLE = re.compile(r"\ban? (?=([a-z]))")


def paraphrase(text: str) -> str:
    """An expression of a scene in words that no scene's expression has: "large red disc on the
    grass" -> "vast crimson circle upon the lawn".
    """
    rng = Rng(zlib.crc32(text.encode()))
    other = _SAID.sub(lambda found: rng.pick(SYNONYMS[found[0]]), text)
    return _ARTICLE.sub(lambda found: "an " if found[1] in "aeiou" else "a ", other)
