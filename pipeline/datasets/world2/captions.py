"""Captions of a scene of world 2: what is seen and where, in the words of its expressions.

Two lists of all things, in order from the left and from the top; then one sentence per thing, which
tells all of it: size, paint, turn, what is where on it, and the third of the image it is in.
Nothing is asked and no thing is singled out: text for a language model, or for aligning a projector.
"""

from collections.abc import Sequence
from typing import Final

from ..expressions import MAX_EXPRESSION
from ..scenes.rng import Rng
from .sampling import Scene, Thing
from .vocabulary import TURNS

_ROWS: Final = ("top", "", "bottom")
_COLUMNS: Final = ("left", "", "right")
_CORNERS: Final = ("top left", "top right", "bottom left", "bottom right")


def captions(scene: Scene, rng: Rng) -> tuple[str, ...]:
    """Two lists and a sentence per thing, in random order; each of at most 512 characters."""
    things = scene.things
    out = [
        _list("from left to right", sorted(things, key=lambda thing: thing.centre[0])),
        _list("from top to bottom", sorted(things, key=lambda thing: thing.centre[1])),
        *(f"{_place(thing, scene)} there is {full_name(thing)}" for thing in things),
    ]
    rng.shuffle(out)
    return tuple(out)


def short_name(thing: Thing) -> str:
    """Paint and silhouette, "a red ring"; of a thing of parts all paints, "a square of red and blue"."""
    if thing.arrangement == "whole":
        return _article(f"{thing.coats[0].text} {thing.silhouette}")
    return _article(f"{thing.silhouette} of {_and([coat.text for coat in thing.coats])}")


def full_name(thing: Thing) -> str:
    """All that an expression may say of the thing alone."""
    first = thing.coats[0].text
    if thing.arrangement == "whole":
        words = (thing.size, first, thing.silhouette)
        turned = TURNS[thing.silhouette][thing.turn] if thing.silhouette in TURNS else ""
        return _article(" ".join((*words, turned)).strip())
    names = [coat.text for coat in thing.coats]
    if thing.arrangement in ("quarters", "target"):
        places = [*(f"at the {corner}" for corner in _CORNERS), "in the centre"]
        said = _and([f"{name} {place}" for name, place in zip(names, places, strict=False)])
    else:
        word = {"stack": " above ", "row": " left of ", "core": " inside "}
        said = word[thing.arrangement.partition(" ")[0]].join(names)
    return _article(f"{thing.size} {thing.silhouette} with {said}")


def _list(opening: str, things: Sequence[Thing]) -> str:
    text = f"{opening}: {_and([short_name(thing) for thing in things])}"
    while len(text) > MAX_EXPRESSION:
        things = things[:-1]
        text = f"{opening} first: {_and([short_name(thing) for thing in things])}"
    return text


def _place(thing: Thing, scene: Scene) -> str:
    x, y = thing.centre
    row, column = _ROWS[int(3 * y / scene.height)], _COLUMNS[int(3 * x / scene.width)]
    return f"at the {f'{row} {column}'.strip()}" if row or column else "in the middle"


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
