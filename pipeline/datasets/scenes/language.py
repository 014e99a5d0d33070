"""Referring expressions for the things of a scene, each true of exactly one of them.

Every phrase is a noun phrase ("large red striped disc with a blue square"), alone or with a
superlative, a place or a relation that is needed: without it the noun phrase would fit several
things. Comparisons keep a margin, so that no phrase hangs on a pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Final

import numpy as np

from .rng import Rng
from .vocab import COLOURS, SHAPES, SIZES
from .world import Scene, Thing, region_map, stamp, window

CLASSES: Final = ("attribute", "size", "position", "relation")
_PER_THING = 3  # phrases per thing at most
_ABSENT = 4  # phrases of nothing per scene at most
_CLEAR = 8  # px by which "left of" and its like must hold
_ANCHORS = 6  # things tried as the other side of a relation
_OVER_PX = 12  # hidden pixels that make "in front of"
_ON, _OFF = 0.9, 0.3  # shares of a thing over a region: on it, and clearly not

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase; None leaves an attribute open."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    part: tuple[str, str] | None = None  # colour, shape

    def text(self) -> str:
        words = [w for w in (self.size, self.colour, self.texture, self.shape) if w]
        tail = f" with {_article(self.part[0])} {self.part[0]} {self.part[1]}" if self.part else ""
        return " ".join(words) + tail

    def classes(self) -> set[str]:
        """The word classes it uses beyond the shape."""
        described = bool(self.colour or self.texture or self.part)
        return ({"attribute"} if described else set()) | ({"size"} if self.size else set())


@dataclass(frozen=True, slots=True)
class Phrase:
    """One expression for thing number `target`, None for none; `classes` in the order of `CLASSES`."""

    text: str
    target: int | None
    classes: tuple[str, ...]

    @property
    def targets(self) -> tuple[int, ...]:
        """The things it is true of: one at most, in this world."""
        return () if self.target is None else (self.target,)


def describe(scene: Scene, rng: Rng, *, absent: bool = False) -> tuple[Phrase, ...]:
    """Up to three phrases per thing, of different classes; some things have none.

    absent  then up to four phrases that are true of nothing in the scene; the others stay the same
    """
    speaker = _Speaker(scene)
    out: list[Phrase] = []
    for target in range(len(scene.things)):
        found = speaker.phrases(target, rng)
        rng.shuffle(found)
        out += found[:_PER_THING]
    return (*out, *speaker.absent(rng)) if absent else tuple(out)


class _Speaker:
    """The tables of one scene: which noun phrase fits which things, who hides whom, who is where."""

    def __init__(self, scene: Scene) -> None:
        self.things = scene.things
        self.groups: dict[Noun, list[int]] = {}
        for i, thing in enumerate(self.things):
            for noun in _nouns(thing):
                self.groups.setdefault(noun, []).append(i)
        self.over = _hidden(scene)
        self.ground = _ground(scene)
        self.regions = [region.name for region in scene.regions]
        self.names = [self._shortest(i) for i in range(len(self.things))]

    def phrases(self, target: int, rng: Rng) -> list[Phrase]:
        """At most one phrase per class of words, chosen among all that are true and unique."""
        found: list[Phrase] = []
        nouns = _nouns(self.things[target])
        crowds = [n for n in nouns if n.size is None and len(self.groups[n]) > 1]
        for maker in (self._attribute, self._size, self._position, self._relation):
            choices = list(maker(target, nouns if maker == self._attribute else crowds, rng))
            if choices:
                found.append(rng.pick(choices))
        return found

    def absent(self, rng: Rng) -> list[Phrase]:
        """Noun phrases of a thing here with another shape or colour, which no thing has so."""
        found: dict[str, Phrase] = {}
        known = [noun for noun in self.groups if noun.size is None]
        for _ in range(_ABSENT if known else 0):
            noun = rng.pick(known)
            if noun.colour is None or rng.pick((True, False)):
                changed = replace(noun, shape=rng.pick(SHAPES))
            else:
                changed = replace(noun, colour=rng.pick(tuple(COLOURS)))
            if changed not in self.groups:
                found[changed.text()] = _phrase(changed.text(), None, changed)
        return list(found.values())

    def _shortest(self, i: int) -> Noun | None:
        alone = [n for n in _nouns(self.things[i]) if n.size is None and len(self.groups[n]) == 1]
        return min(alone, key=lambda n: len(n.text()), default=None)

    def _attribute(self, target: int, nouns: list[Noun], _: Rng) -> Iterator[Phrase]:
        for noun in nouns:
            if noun.size is None and len(self.groups[noun]) == 1:
                yield _phrase(noun.text(), target, noun, "attribute")

    def _size(self, target: int, crowds: list[Noun], _: Rng) -> Iterator[Phrase]:
        size = self.things[target].size
        for noun in crowds:
            sized = replace(noun, size=size)
            if len(self.groups[sized]) == 1:
                yield _phrase(sized.text(), target, sized, "size")
            ranks = [SIZES.index(self.things[i].size) for i in self.groups[noun]]
            mine = SIZES.index(size)
            if ranks.count(mine) == 1 and mine in (min(ranks), max(ranks)):
                word = "largest" if mine == max(ranks) else "smallest"
                yield _phrase(f"{word} {noun.text()}", target, noun, "size")

    def _position(self, target: int, crowds: list[Noun], _: Rng) -> Iterator[Phrase]:
        for noun in crowds:
            for axis, first, last in (("x", "leftmost", "rightmost"), ("y", "top", "bottom")):
                order = sorted((getattr(self.things[i], axis), i) for i in self.groups[noun])
                gaps = [b[0] - a[0] for a, b in pairwise(order)]
                rank, n = [i for _, i in order].index(target), len(order)
                if rank == 0 and gaps[0] >= _CLEAR:
                    yield _phrase(f"{first} {noun.text()}", target, noun, "position")
                elif rank == n - 1 and gaps[-1] >= _CLEAR:
                    yield _phrase(f"{last} {noun.text()}", target, noun, "position")
                elif n == 3 and axis == "x" and min(gaps) >= _CLEAR:
                    yield _phrase(f"middle {noun.text()}", target, noun, "position")
                elif axis == "x" and 0 < rank < n - 1 and min(gaps[rank - 1 : rank + 1]) >= _CLEAR:
                    side = {1: "left", n - 2: "right"}.get(rank)
                    if side is not None:
                        text = f"second {noun.text()} from the {side}"
                        yield _phrase(text, target, noun, "position")

    def _relation(self, target: int, crowds: list[Noun], rng: Rng) -> Iterator[Phrase]:
        anchors = [j for j in range(len(self.things)) if j != target and self.names[j]]
        rng.shuffle(anchors)
        for noun in crowds:
            others = [i for i in self.groups[noun] if i != target]
            for region, name in enumerate(self.regions):
                on = self.ground[:, region]
                if on[target] >= _ON and all(on[i] <= _OFF for i in others):
                    yield _phrase(f"{noun.text()} on the {name}", target, noun, "relation")
            for anchor in anchors[:_ANCHORS]:
                for word in self._relations(target, anchor, [i for i in others if i != anchor]):
                    other = self.names[anchor]
                    assert other is not None
                    yield _phrase(f"{noun.text()} {word} the {other.text()}", target, noun,
                                  "relation", *other.classes())  # fmt: skip

    def _relations(self, target: int, anchor: int, others: list[int]) -> Iterator[str]:
        """Relations that hold clearly for the target and clearly fail for the others."""
        if not others:  # then the anchor itself is the only other thing of that noun
            return
        at = [(thing.x, thing.y) for thing in self.things]
        yield from place_relations(at[target], at[anchor], [at[i] for i in others])
        if self.over[target, anchor] >= _OVER_PX and not self.over[others, anchor].any():
            yield "in front of"
        if self.over[anchor, target] >= _OVER_PX and not self.over[anchor, others].any():
            yield "behind"


def place_relations(target: Point, anchor: Point, others: Sequence[Point]) -> Iterator[str]:
    """Relations of place to the anchor that hold clearly for the target and for none of the others.

    Points are (x, y) in px.
    """
    (ax, ay), (tx, ty) = anchor, target
    if tx <= ax - _CLEAR and all(x >= ax for x, _ in others):
        yield "left of"
    if tx >= ax + _CLEAR and all(x <= ax for x, _ in others):
        yield "right of"
    if ty <= ay - _CLEAR and all(y >= ay for _, y in others):
        yield "above"
    if ty >= ay + _CLEAR and all(y <= ay for _, y in others):
        yield "below"


def _nouns(thing: Thing) -> list[Noun]:
    part = (thing.part.colour, thing.part.shape) if thing.part else None
    options = product(
        (None, thing.colour),
        (None, thing.texture) if thing.texture != "plain" else (None,),
        (None, thing.size),
        (None, part) if part else (None,),
    )
    return [Noun(thing.shape, *choice) for choice in options]


def _phrase(text: str, target: int | None, noun: Noun, *classes: str) -> Phrase:
    used = noun.classes() | set(classes)
    return Phrase(text, target, tuple(c for c in CLASSES if c in used))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _hidden(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(K,K): pixels of thing j that thing i, further in front, covers."""
    full = np.zeros((len(scene.things), scene.height, scene.width), np.bool_)
    for k, thing in enumerate(scene.things):
        mark = stamp(thing)
        rows, cols, inner = window(mark, thing.x, thing.y, scene.height, scene.width)
        full[k, rows, cols] = mark.whole[inner]
    return covered(full)


def covered(full: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(K,K) pixels of thing j that thing i, further in front, covers; `full` (K,H,W) whole bodies."""
    flat = full.reshape(len(full), -1).astype(np.float32)  # exact: counts stay below 2**24
    return np.tril((flat @ flat.T).astype(np.int64), -1)


def _ground(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(K,R): share of each thing's outline that stands over each region."""
    regions = region_map(scene.regions, scene.height, scene.width)
    out = np.zeros((len(scene.things), len(scene.regions)))
    for k, thing in enumerate(scene.things):
        mark = stamp(thing)
        rows, cols, inner = window(mark, thing.x, thing.y, scene.height, scene.width)
        under = regions[rows, cols][mark.whole[inner]]
        out[k] = np.bincount(under, minlength=len(scene.regions) + 1)[1:] / len(under)
    return out
