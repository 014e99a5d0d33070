"""Referring expressions for a scene of world 2, each checked against every thing of the scene.

A noun phrase names a silhouette (or just "thing"), and any of size, paint, turn and parts. What a
phrase says of parts or paint is a *fact*: a text such as "with red above blue" that holds for some
things and fails for others. A phrase is kept only if exactly its targets fulfil it. Comparisons of
places keep a margin, so that no phrase hangs on a pixel.

Classes, for slices of an evaluation: `attribute` (paint, finish), `size`, `position` (superlative,
ordinal), `relation`, `binding` (which paint is where), `outline` (turn, or a silhouette that alone
decides), `negation`, `several` targets, and `none`: a thing that is not there, though each of its
words is true of something.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from ..scenes.language import covered, place_relations
from ..scenes.rng import Rng
from ..scenes.world import region_map
from .sampling import Scene, Thing
from .vocabulary import CLASSES, SIZES, TURNS

_PER_THING = 4  # phrases of one target at most
_PER_SCENE = 2  # phrases for several targets, and for none, at most
_CLEAR = 8  # px by which "left of" and its like must hold
_ANCHORS = 6  # things tried as the other side of a relation
_OVER_PX = 16  # hidden pixels that make "in front of"
_ON, _OFF = 0.9, 0.3  # shares of a thing over a ground: on it, and clearly not
_ORDINALS = ("second", "third", "fourth")
_CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, slots=True)
class Phrase:
    """One expression; `targets` number the things it is true of, `classes` in order of `CLASSES`."""

    text: str
    targets: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase; None leaves a property open. `fact` and `turn` are said behind the noun."""

    silhouette: str | None = None
    size: str | None = None
    paint: str | None = None
    turn: str | None = None
    fact: str | None = None

    def text(self) -> str:
        """As an expression says it."""
        words = (self.size, self.paint, self.silhouette or "thing", self.turn, self.fact)
        return " ".join(word for word in words if word)


def describe(scene: Scene, rng: Rng) -> tuple[Phrase, ...]:
    """Up to four phrases per thing, of different kinds; then phrases of several and of no target."""
    speaker = _Speaker(scene)
    out: list[Phrase] = []
    for target in range(len(scene.things)):
        found = speaker.phrases(target, rng)
        rng.shuffle(found)
        out += found[:_PER_THING]
    for made in (speaker.several(), speaker.absent(rng)):
        choices = list(made)
        rng.shuffle(choices)
        out += choices[:_PER_SCENE]
    return tuple(out)


def facts(thing: Thing) -> tuple[list[str], list[str]]:
    """(paints, bindings): what may be said of a thing's paint, and of what is where on it.

    A coat of a finish is also a coat of its paint: "with red above blue" holds for striped red too.
    """
    names = [(coat.text, coat.paint) for coat in thing.coats]
    either = [tuple(dict.fromkeys(pair)) for pair in names]
    if thing.arrangement == "whole":
        coat = thing.coats[0]
        bare = [] if coat.finish == "plain" else [coat.finish]
        return [*either[0], *bare], []
    paints = sorted({f"with some {name}" for pair in either for name in pair})
    bindings = set()
    for kind, a, b in _pairs(thing.arrangement):
        for first, second in product(either[a], either[b]):
            if first != second:
                bindings.add(f"with {first} {kind} {second}")
    for place, number in _places(thing.arrangement):
        bindings |= {f"with {name} {place}" for name in either[number]}
    return paints, sorted(bindings)


def _pairs(arrangement: str) -> list[tuple[str, int, int]]:
    """(relation, part, other part) for every two parts that one word relates."""
    if arrangement.startswith("stack"):
        count = 2 if arrangement == "stack" else 3
        return [("above", a, b) for a in range(count) for b in range(a + 1, count)]
    if arrangement.startswith("row"):
        count = 2 if arrangement == "row" else 3
        return [("left of", a, b) for a in range(count) for b in range(a + 1, count)]
    if arrangement == "core":
        return [("inside", 0, 1)]
    return []


def _places(arrangement: str) -> list[tuple[str, int]]:
    if arrangement in ("quarters", "target"):
        corners = [(f"at the {corner}", k) for k, corner in enumerate(_CORNERS)]
        return corners + ([("in the centre", 4)] if arrangement == "target" else [])
    return []


class _Speaker:
    """The tables of one scene: which noun phrase fits which things, who hides whom, who is where."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.things = scene.things
        self.facts = [facts(thing) for thing in scene.things]
        self.nouns = [
            _nouns(thing, *said) for thing, said in zip(self.things, self.facts, strict=True)
        ]
        self.groups: dict[Noun, list[int]] = {}
        for number, nouns in enumerate(self.nouns):
            for noun in nouns:
                self.groups.setdefault(noun, []).append(number)
        self.names = [self._shortest(number) for number in range(len(self.things))]

    def phrases(self, target: int, rng: Rng) -> list[Phrase]:
        """At most one phrase of each kind, chosen among all that are true of this thing alone."""
        nouns = self.nouns[target]
        crowds = [noun for noun in nouns if noun.size is None and len(self.groups[noun]) > 1]
        found = []
        by_class: dict[str, list[Phrase]] = {}
        for noun in nouns:
            if noun.size is None and len(self.groups[noun]) == 1:
                phrase = self._phrase(noun.text(), (target,), noun)
                by_class.setdefault(phrase.classes[-1] if phrase.classes else "", []).append(phrase)
        found += [rng.pick(_briefest(choices)) for _, choices in sorted(by_class.items())]
        for maker in (self._size, self._position, self._relation, self._negation):
            choices = list(maker(target, crowds, rng))
            if choices:
                found.append(rng.pick(choices))
        return found

    def several(self) -> Iterator[Phrase]:
        """Phrases that are true of two to five things."""
        for noun, group in self.groups.items():
            if 2 <= len(group) <= 5 and (noun.silhouette or noun.fact or noun.paint or noun.size):
                said = [word for word in (noun.size, noun.paint, noun.turn, noun.fact) if word]
                if len(said) <= 1:
                    yield self._phrase(f"every {noun.text()}", tuple(group), noun, "several")

    def absent(self, rng: Rng) -> Iterator[Phrase]:
        """Phrases true of nothing here, each but one word away from something that is here."""
        known = list(self.groups)
        for _ in range(24 if known else 0):
            a, b = rng.pick(known), rng.pick(known)
            mixed = replace(a, **{rng.pick(("silhouette", "paint", "turn", "fact")): None})
            swapped = replace(
                mixed,
                silhouette=mixed.silhouette or b.silhouette,
                paint=mixed.paint or (b.paint if mixed.fact is None else None),
                fact=mixed.fact or (b.fact if mixed.paint is None else None),
                turn=a.turn if a.silhouette == (mixed.silhouette or b.silhouette) else None,
                size=None,
            )
            said = swapped.silhouette and (swapped.paint or swapped.fact or swapped.turn)
            if said and not self.groups.get(swapped):
                yield self._phrase(swapped.text(), (), swapped, "none")

    def _shortest(self, number: int) -> Noun | None:
        alone = [n for n in self.nouns[number] if n.size is None and len(self.groups[n]) == 1]
        return min(alone, key=lambda noun: len(noun.text()), default=None)

    def _size(self, target: int, crowds: list[Noun], _: Rng) -> Iterator[Phrase]:
        mine = SIZES.index(self.things[target].size)
        for noun in crowds:
            sized = replace(noun, size=self.things[target].size)
            if len(self.groups[sized]) == 1:
                yield self._phrase(sized.text(), (target,), sized, "size")
            ranks = [SIZES.index(self.things[i].size) for i in self.groups[noun]]
            if ranks.count(mine) == 1 and mine in (min(ranks), max(ranks)):
                word = "largest" if mine == max(ranks) else "smallest"
                yield self._phrase(f"{word} {noun.text()}", (target,), noun, "size")

    def _position(self, target: int, crowds: list[Noun], _: Rng) -> Iterator[Phrase]:
        ways = (
            (0, "leftmost", "rightmost", "left", "right"),
            (1, "top", "bottom", "top", "bottom"),
        )
        for noun in crowds:
            for axis, first, last, start, end in ways:
                order = sorted((self.things[i].centre[axis], i) for i in self.groups[noun])
                rank, n = [i for _, i in order].index(target), len(order)
                gaps = [b[0] - a[0] for a, b in pairwise(order)]
                if min(gaps[max(0, rank - 1) : rank + 1]) < _CLEAR:
                    continue
                if rank == 0 or rank == n - 1:
                    word = first if rank == 0 else last
                    yield self._phrase(f"{word} {noun.text()}", (target,), noun, "position")
                    continue
                if n == 3:
                    direction = "" if axis == 0 else " from top to bottom"
                    text = f"middle {noun.text()}{direction}"
                    yield self._phrase(text, (target,), noun, "position")
                for place, side in ((rank, start), (n - 1 - rank, end)):
                    # Every gap up to it must be clear, or the count itself is in doubt.
                    passed = gaps[:rank] if side == start else gaps[rank:]
                    if place <= len(_ORDINALS) and min(passed) >= _CLEAR:
                        text = f"{_ORDINALS[place - 1]} {noun.text()} from the {side}"
                        yield self._phrase(text, (target,), noun, "position")

    def _relation(self, target: int, crowds: list[Noun], rng: Rng) -> Iterator[Phrase]:
        anchors = [j for j in range(len(self.things)) if j != target and self.names[j]]
        rng.shuffle(anchors)
        for noun in crowds:
            others = [i for i in self.groups[noun] if i != target]
            for region, on in enumerate(self._ground.T):
                if on[target] >= _ON and all(on[i] <= _OFF for i in others):
                    text = f"{noun.text()} on the {self.scene.regions[region].name}"
                    yield self._phrase(text, (target,), noun, "relation")
            for anchor in anchors[:_ANCHORS]:
                name = self.names[anchor]
                rest = [i for i in others if i != anchor]
                if name is None or not rest:
                    continue
                for word in self._relations(target, anchor, rest):
                    text = f"{noun.text()} {word} the {name.text()}"
                    yield self._phrase(text, (target,), noun, "relation", *self._classes(name))

    def _relations(self, target: int, anchor: int, others: list[int]) -> Iterator[str]:
        """Relations that hold clearly for the target and clearly fail for the others."""
        at = [thing.centre for thing in self.things]
        yield from place_relations(at[target], at[anchor], [at[i] for i in others])
        if self._over[target, anchor] >= _OVER_PX and not self._over[others, anchor].any():
            yield "in front of"
        if self._over[anchor, target] >= _OVER_PX and not self._over[anchor, others].any():
            yield "behind"

    def _negation(self, target: int, crowds: list[Noun], _: Rng) -> Iterator[Phrase]:
        """All others of the noun have the property, this one alone lacks it."""
        for noun in crowds:
            group = self.groups[noun]
            if noun.turn or noun.fact or noun.paint:
                continue
            others = [i for i in group if i != target]
            for said, text, kind in self._lacking(target, others):
                phrase = f"{noun.text()} {text.format(said)}"
                yield self._phrase(phrase, (target,), noun, "negation", kind)

    def _lacking(self, target: int, others: list[int]) -> Iterator[tuple[str, str, str]]:
        whole = all(not self.facts[i][1] for i in (target, *others))
        mine = {*self.facts[target][0], *self.facts[target][1]}
        shared = set.intersection(*({*self.facts[i][0], *self.facts[i][1]} for i in others))
        for fact in sorted(shared - mine):
            if whole:
                yield fact, "that is not {}", "attribute"
            elif fact.startswith("with some "):
                yield fact.removeprefix("with some "), "without {}", "attribute"
        turns = {_turn(self.things[i]) for i in others}
        mine_turn = _turn(self.things[target])
        same = {self.things[i].silhouette for i in (target, *others)}
        if len(turns) == 1 and None not in turns and mine_turn not in turns and len(same) == 1:
            yield str(turns.pop()), "that is not {}", "outline"

    def _phrase(self, text: str, targets: tuple[int, ...], noun: Noun, *classes: str) -> Phrase:
        used = {*self._classes(noun), *classes}
        return Phrase(text, targets, tuple(name for name in CLASSES if name in used))

    def _classes(self, noun: Noun) -> set[str]:
        used = set()
        if noun.size:
            used.add("size")
        if noun.paint or (noun.fact or "").startswith("with some"):
            used.add("attribute")
        if noun.fact and not noun.fact.startswith("with some"):
            used.add("binding")
        if noun.turn:
            used.add("outline")
        elif noun.silhouette and not noun.fact:
            # The silhouette decides if the rest of the phrase fits a thing in an equal box too.
            sides = {self.things[i].side for i in self.groups.get(noun, ())}
            open_ = self.groups.get(replace(noun, silhouette=None), ())
            alike = [i for i in open_ if self.things[i].silhouette != noun.silhouette]
            if noun.paint and any(self.things[i].side in sides for i in alike):
                used.add("outline")
        return used

    @cached_property
    def _over(self) -> NDArray[np.int64]:
        """(K,K): pixels of thing j that thing i, further in front, covers."""
        full = np.zeros((len(self.things), self.scene.height, self.scene.width), np.bool_)
        for k, thing in enumerate(self.things):
            full[k, thing.y : thing.y + thing.side, thing.x : thing.x + thing.side] = thing.mask
        return covered(full)

    @cached_property
    def _ground(self) -> NDArray[np.float64]:
        """(K,R): share of each thing's body that stands over each ground."""
        regions = region_map(self.scene.regions, self.scene.height, self.scene.width)
        out = np.zeros((len(self.things), len(self.scene.regions)))
        for k, thing in enumerate(self.things):
            under = regions[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side]
            counts = np.bincount(under[thing.mask], minlength=out.shape[1] + 1)
            out[k] = counts[1:] / counts.sum()
        return out


def _nouns(thing: Thing, paints: list[str], bindings: list[str]) -> list[Noun]:
    whole = thing.arrangement == "whole"
    adjectives = [None, *paints] if whole else [None]
    said = [None] if whole else [None, *paints, *bindings]
    turn = _turn(thing)
    return [
        Noun(silhouette, size, paint, turned, fact)
        for silhouette in (None, thing.silhouette)
        for size in (None, thing.size)
        for paint in adjectives
        for turned in ((None, turn) if turn and silhouette else (None,))
        for fact in said
    ]


def _turn(thing: Thing) -> str | None:
    words = TURNS.get(thing.silhouette)
    return words[thing.turn] if words else None


def _briefest(choices: list[Phrase]) -> list[Phrase]:
    """The shorter half: long ones pile up words that add nothing."""
    ordered = sorted(choices, key=lambda phrase: (len(phrase.text), phrase.text))
    return ordered[: max(1, len(ordered) // 2)]
