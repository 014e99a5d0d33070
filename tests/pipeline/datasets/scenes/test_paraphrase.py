"""Expressions in other words: every content word is new, and the choice is fixed."""

from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.datasets.scenes.paraphrase import SYNONYMS, paraphrase

FUNCTION_WORDS = {"a", "an", "the", "of", "on", "in", "from", "side"}


def test_no_word_of_a_scene_is_left() -> None:
    said = [phrase.text for k in range(60) for phrase in make_scene(9000, k, "testA").phrases]
    known = {word for text in said for word in text.split()}
    others = {word for text in said for word in paraphrase(text).split()}
    assert others & known <= FUNCTION_WORDS
    assert len(others) > 60


def test_synonyms_name_one_word_each() -> None:
    words = [word for synonyms in SYNONYMS.values() for word in synonyms]
    assert len(words) == len(set(words))


def test_the_choice_is_fixed() -> None:
    assert paraphrase("leftmost disc") == "far-left circle"
    assert paraphrase("diamond with an orange square") == "lozenge bearing an amber box"
