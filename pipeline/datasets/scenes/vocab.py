"""Vocabulary of the scenes: shapes, colours, textures, sizes, regions.

The list order is part of the format: label k of an attribute is item k of its tuple.
"""

from typing import Final

SHAPES: Final = ("disc", "square", "triangle", "diamond", "cross", "bar", "post", "dome")
TEXTURES: Final = ("plain", "striped", "dotted", "checked")
SIZES: Final = ("small", "medium", "large")
LEVELS: Final = ("region", "body", "part", "sub-part")

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (212, 38, 38),
    "orange": (246, 140, 24),
    "yellow": (246, 226, 48),
    "green": (40, 150, 60),
    "blue": (44, 74, 208),
    "purple": (138, 46, 168),
    "pink": (250, 128, 190),
    "black": (36, 36, 40),
}

# Pale, so that a region is never mistaken for an object; far enough apart to see the borders.
REGIONS: Final[dict[str, tuple[int, int, int]]] = {
    "sky": (186, 218, 250),
    "grass": (172, 216, 158),
    "sand": (238, 222, 176),
    "wall": (222, 202, 200),
    "floor": (186, 170, 152),
    "water": (140, 192, 204),
    "snow": (244, 246, 248),
    "stone": (188, 190, 204),
}

# Area of the body in pixels of a scene of any size; the gaps keep the size words beyond doubt.
SIZE_AREAS: Final[dict[str, tuple[int, int]]] = {
    "small": (170, 220),
    "medium": (360, 440),
    "large": (720, 900),
}
