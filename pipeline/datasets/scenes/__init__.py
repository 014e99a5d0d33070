"""Generated scenes with exact masks and expressions, the default data set."""

from .generated import is_generated
from .make import SIZE, SPLITS, MadeScene, make_scene
from .write import object_masks, write_scenes

__all__ = [
    "SIZE",
    "SPLITS",
    "MadeScene",
    "is_generated",
    "make_scene",
    "object_masks",
    "write_scenes",
]
