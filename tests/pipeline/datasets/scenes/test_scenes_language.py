from collections import Counter

import pytest

from support.scene_language import fitting
from svp.pipeline.datasets.scenes import MadeScene, make_scene
from svp.pipeline.datasets.scenes.language import CLASSES
from svp.pipeline.datasets.scenes.vocab import COLOURS, SIZES, TEXTURES

_SIZE = {*SIZES, "largest", "smallest"}
_POSITION = {"leftmost", "rightmost", "top", "bottom", "middle", "second"}
_RELATION = {"of", "above", "below", "behind", "on"}


@pytest.fixture(scope="module")
def made() -> list[MadeScene]:
    square = [make_scene(11, i, "val") for i in range(25)]
    return square + [make_scene(11, i, "testB", (96, 160)) for i in range(10)]


def test_every_sentence_fits_exactly_its_target(made: list[MadeScene]) -> None:
    for scene in made:
        for phrase in scene.phrases:
            assert fitting(scene.scene, phrase.text) == [phrase.target], phrase.text


def test_word_classes_follow_from_the_words(made: list[MadeScene]) -> None:
    for scene in made:
        for phrase in scene.phrases:
            words = set(phrase.text.split())
            attribute = bool(words & {*COLOURS, *TEXTURES, "with"})
            told = {
                # A noun phrase that is unique by its shape alone is an attribute phrase too.
                "attribute": attribute or phrase.classes == ("attribute",),
                "size": bool(words & _SIZE),
                "position": bool(words & _POSITION),
                "relation": bool(words & _RELATION),
            }
            assert phrase.classes == tuple(c for c in CLASSES if told[c]), phrase


def test_superlatives_places_and_relations_are_needed(made: list[MadeScene]) -> None:
    for scene in made:
        for phrase in scene.phrases:
            if set(phrase.classes) & {"position", "relation"}:
                shape = scene.scene.things[phrase.target].shape
                assert sum(t.shape == shape for t in scene.scene.things) > 1, phrase.text


def test_all_classes_occur_and_nearly_every_thing_can_be_named(made: list[MadeScene]) -> None:
    seen = Counter(c for scene in made for p in scene.phrases for c in p.classes)
    assert all(seen[c] >= 30 for c in CLASSES), seen
    things = sum(len(scene.scene.things) for scene in made)
    named = sum(len({p.target for p in scene.phrases}) for scene in made)
    assert named >= 0.95 * things
    vocabulary = {word for scene in made for p in scene.phrases for word in p.text.split()}
    assert len(vocabulary) < 64
