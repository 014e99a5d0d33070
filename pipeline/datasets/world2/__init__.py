"""World 2: generated scenes in which parts, outlines and places decide which thing is meant."""

from .make import DIFFICULTY, MadeScene, make_scene

__all__ = ["DIFFICULTY", "MadeScene", "make_scene"]
