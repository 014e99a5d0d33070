"""Vocabulary of world 2: silhouettes and their turns, arrangements of parts, paints, grounds.

The order of every tuple is part of the format: label k of an attribute is item k of its tuple.
"""

from typing import Final

PAINTS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (206, 44, 44),
    "orange": (240, 138, 30),
    "yellow": (240, 220, 58),
    "green": (46, 148, 66),
    "blue": (50, 80, 204),
    "purple": (138, 54, 166),
    "pink": (244, 132, 190),
    "white": (244, 244, 240),
    "black": (40, 40, 44),
}
FINISHES: Final = ("plain", "striped", "dotted", "checked")
SIZES: Final = ("small", "medium", "large")
# Side of the box, px: multiples of 6, so that thirds and halves of a box are equal to the pixel.
SIDES: Final[dict[str, int]] = {"small": 18, "medium": 24, "large": 36}

# Filled cells of a 3x3 grid, five of nine in each, so that box and area tell none from another.
GRIDS: Final[dict[str, tuple[str, str, str]]] = {
    "plus": (".#.", "###", ".#."),
    "ell": ("#..", "#..", "###"),
    "tee": ("###", ".#.", ".#."),
    "stairs": ("#..", "##.", ".##"),
    "zed": ("##.", ".#.", ".##"),
    "ess": (".##", ".#.", "##."),
}
ROUND: Final = ("disc", "ring", "moon")
SILHOUETTES: Final = ("square", *ROUND, *GRIDS)

# How a turn by 0, 90, 180, 270 degrees clockwise is told; shapes that look the same have no words.
TURNS: Final[dict[str, tuple[str, ...]]] = {
    "ell": (
        "with its corner at the bottom left",
        "with its corner at the top left",
        "with its corner at the top right",
        "with its corner at the bottom right",
    ),
    "tee": ("pointing down", "pointing left", "pointing up", "pointing right"),
    "stairs": (
        "open to the top right",
        "open to the bottom right",
        "open to the bottom left",
        "open to the top left",
    ),
    "zed": ("lying", "standing"),
    "ess": ("lying", "standing"),
    "moon": ("open to the right", "open to the bottom", "open to the left", "open to the top"),
}

# Arrangements of parts; the words for (part 1, part 2, ...) in the order of `part_map`.
ARRANGEMENTS: Final[dict[str, int]] = {
    "whole": 1,
    "stack": 2,  # one above the other
    "row": 2,  # side by side
    "core": 2,  # inside and around
    "stack of three": 3,
    "row of three": 3,
    "quarters": 4,  # top left, top right, bottom left, bottom right
    "target": 5,  # quarters around a core
}

# Pale, so that a ground is never mistaken for a thing. Photographs tint the last three.
GROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "sky": (186, 214, 244),
    "sand": (236, 222, 182),
    "wall": (220, 204, 204),
    "floor": (188, 174, 158),
    "water": (146, 192, 206),
    "snow": (242, 244, 246),
    "grass": (176, 212, 160),
    "gravel": (196, 196, 206),
    "bricks": (222, 192, 176),
}
PHOTOGRAPHED: Final = ("grass", "gravel", "bricks")
CLASSES: Final = (
    "attribute",
    "size",
    "position",
    "relation",
    "binding",
    "outline",
    "negation",
    "several",
    "none",
)
