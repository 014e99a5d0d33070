"""Captions of world 2 agree with the scene, and patch labels with the label maps."""

import re
from itertools import pairwise

import numpy as np
import pytest

from svp.pipeline.datasets.expressions import expression_problem
from svp.pipeline.datasets.world2 import MadeScene, make_scene
from svp.pipeline.datasets.world2.captions import full_name, short_name
from svp.pipeline.datasets.world2.make import make_text
from svp.pipeline.datasets.world2.patch_labels import ATTRIBUTES, coat_shares, patch_labels
from svp.pipeline.datasets.world2.vocabulary import FINISHES, PAINTS


@pytest.fixture(scope="module")
def made() -> list[MadeScene]:
    return [make_scene(3, k, difficulty=25 * (k % 5)) for k in range(15)]


def test_text_alone_is_that_of_the_scene(made: list[MadeScene]) -> None:
    scene, phrases, captions = make_text(3, 4, difficulty=100)
    assert (scene, phrases, captions) == (made[4].scene, made[4].phrases, made[4].captions)


def test_captions_name_every_thing_in_its_order(made: list[MadeScene]) -> None:
    for scene in made:
        things = scene.scene.things
        lists = {text.partition(":")[0]: text for text in scene.captions if ":" in text}
        assert len(lists) == 2 and len(scene.captions) == 2 + len(things)
        assert all(expression_problem(text) is None for text in scene.captions)
        for axis, opening in enumerate(("from left to right", "from top to bottom")):
            text = lists.get(opening)
            if text is None:  # cut: there are too many to name
                assert len(lists[f"{opening} first"]) <= 512
                continue
            names = [short_name(t) for t in sorted(things, key=lambda t: t.centre[axis])]
            at = [m.start() for m in re.finditer("|".join(map(re.escape, set(names))), text)]
            assert len(at) == len(names)
            for start, name in zip(at, names, strict=True):
                assert text.startswith(name, start)


def test_a_caption_tells_a_thing_and_its_third_of_the_image(made: list[MadeScene]) -> None:
    for scene in made:
        for thing in scene.scene.things:
            mine = [
                text for text in scene.captions if text.endswith(f"there is {full_name(thing)}")
            ]
            y, x = scene.labels.whole.shape
            sides = [
                "left"
                if thing.centre[0] < x / 3
                else "right"
                if thing.centre[0] >= 2 * x / 3
                else "",
                "top"
                if thing.centre[1] < y / 3
                else "bottom"
                if thing.centre[1] >= 2 * y / 3
                else "",
            ]
            assert any(
                [word in text.partition(" there")[0] for word in ("left", "right", "top", "bottom")]
                == [word in sides for word in ("left", "right", "top", "bottom")]
                for text in mine
            )


def test_all_that_is_bound_to_a_place_is_told(made: list[MadeScene]) -> None:
    """Twins whose parts are exchanged have different full names and equal short paints."""
    pairs = 0
    for scene in made:
        things = scene.scene.things
        for a, b in pairwise(things):
            if a.kind == b.kind == "binding" and a.group == b.group and a.coats != b.coats:
                assert full_name(a) != full_name(b)
                pairs += 1
    assert pairs > 3


def test_a_patch_of_world_2_is_asked_what_it_shows() -> None:
    """Labels against the label maps: paint of the part that covers it, quarters counted."""
    made = make_scene(3, 0, difficulty=75)
    labels, quarters = patch_labels(made, 8)
    grounds, asked = len(made.scene.regions), 0
    for k in range(256):
        y, x = 8 * (k // 16), 8 * (k % 16)
        whole, part = (m[y : y + 8, x : x + 8] for m in (made.labels.whole, made.labels.part))
        assert quarters[k].sum() == (whole > grounds).sum()
        assert quarters[k, 1] == (whole[:4, 4:] > grounds).sum()
        for number, thing in enumerate(made.scene.things):
            for piece, coat in enumerate(thing.coats, 1):
                inside = (whole == grounds + 1 + number) & (part == piece)
                if inside.sum() > 32:
                    assert ATTRIBUTES["paint"][labels[k, 0]] == coat.paint
                    assert ATTRIBUTES["finish"][labels[k, 1]] == coat.finish
                    assert ATTRIBUTES["silhouette"][labels[k, 3]] == thing.silhouette
                    assert labels[k, 2] == -1
                    asked += 1
        if (whole == 1).sum() > 32:
            assert ATTRIBUTES["ground"][labels[k, 2]] == made.scene.regions[0].name
    assert asked > 10


def test_shares_of_coats_count_the_pixels_of_every_part(made: list[MadeScene]) -> None:
    scene = made[3]
    shares = coat_shares(scene, 8)
    counted = np.zeros(len(PAINTS) * len(FINISHES))
    grounds = len(scene.scene.regions)
    for number, thing in enumerate(scene.scene.things):
        mine = scene.labels.part[scene.labels.whole == grounds + 1 + number]
        for part, coat in enumerate(thing.coats, 1):
            code = list(PAINTS).index(coat.paint) * len(FINISHES) + FINISHES.index(coat.finish)
            counted[code] += (mine == part).sum()
    assert shares.shape == (256, 36)
    assert np.allclose(shares.sum(0) * 64, counted)
