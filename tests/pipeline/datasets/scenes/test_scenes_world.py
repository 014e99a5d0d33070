import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.pipeline.datasets.scenes import MadeScene, make_scene, object_masks
from svp.pipeline.datasets.scenes.rng import Rng
from svp.pipeline.datasets.scenes.shapes import grown, outline, shape_mask
from svp.pipeline.datasets.scenes.vocab import SHAPES
from svp.pipeline.errors import ConfigError

# Equal on every platform and library version: only raw PCG64 words and IEEE + - * / sqrt are used.
GOLDEN = "5728f42e539ff21086be6f9df1857fb550ab5aa2416ac055f96f8224b664881a"


def digest(made: MadeScene) -> bytes:
    labels = made.labels
    arrays = (made.image, labels.whole, labels.part, labels.sub)
    text = "|".join(phrase.text for phrase in made.phrases)
    return b"".join(a.tobytes() for a in arrays) + text.encode()


def test_scenes_are_the_same_for_ever() -> None:
    found = hashlib.sha256()
    for index in range(3):
        found.update(digest(make_scene(0, index)))
    found.update(digest(make_scene(7, 2, "testA", (128, 160))))
    assert found.hexdigest() == GOLDEN


def test_seed_split_index_and_size_each_change_the_scene() -> None:
    variants = [make_scene(0, 0), make_scene(1, 0), make_scene(0, 1), make_scene(0, 0, "val"),
                make_scene(0, 0, size=(128, 129))]  # fmt: skip
    assert len({hashlib.sha256(digest(v)).digest() for v in variants}) == len(variants)


def test_raw_stream_is_the_documented_one() -> None:
    rng = Rng(3, 1, 4)
    assert [rng.below(1000) for _ in range(5)] == [721, 916, 67, 286, 470]


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 10_000), size=st.tuples(st.integers(64, 180), st.integers(64, 180)))
def test_masks_are_nested_visible_and_large_enough(index: int, size: tuple[int, int]) -> None:
    made = make_scene(5, index, "val", size)
    whole, part, sub = made.labels.whole, made.labels.part, made.labels.sub
    regions, things = len(made.scene.regions), len(made.scene.things)
    assert made.image.shape == (*size, 3) and whole.shape == size
    assert set(np.unique(whole).tolist()) == set(range(1, regions + things + 1))
    assert ((part == 0) | (part == whole)).all()
    assert ((sub == 0) | (sub == part)).all()
    assert not part[whole <= regions].any()
    shown = np.bincount(whole.ravel())
    assert shown[1 : regions + 1].min() >= 200
    assert shown[regions + 1 :].min() >= 110
    for k, thing in enumerate(made.scene.things, regions + 1):
        assert (part == k).any() == (thing.part is not None)


def test_object_masks_cover_the_image_once_and_name_their_level() -> None:
    made = make_scene(2, 6)
    masks = list(object_masks(made))
    tiles = np.stack([m for _, level, m in masks if level in ("region", "body")])
    assert (tiles.sum(0) == 1).all()
    bodies = {k: m for k, level, m in masks if level == "body"}
    for k, level, mask in masks:
        if level in ("part", "sub-part"):
            assert mask.any() and not (mask & ~bodies[k]).any()


def test_scenes_range_from_few_to_many_things_with_all_levels() -> None:
    scenes = [make_scene(8, i) for i in range(60)]
    counts = [len(s.scene.things) for s in scenes]
    assert min(counts) <= 5 and max(counts) >= 16
    objects = [c + len(s.scene.regions) for c, s in zip(counts, scenes, strict=True)]
    assert 14 <= np.mean(objects) <= 18
    assert sum(t.part is not None for s in scenes for t in s.scene.things) > 100
    assert sum(bool(s.labels.sub.any()) for s in scenes) > 15


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("area", [170, 450, 1000])
def test_shapes_have_about_the_area_asked_for(shape: str, area: int) -> None:
    axis = np.arange(-40.0, 41)
    mask = shape_mask(shape, area, axis[None, :], axis[:, None])
    assert abs(int(mask.sum()) - area) <= 0.16 * area
    assert (mask == mask[:, ::-1]).all()
    assert not mask[0].any() and not mask[:, 0].any()


def test_outline_and_grown_are_neighbourhoods() -> None:
    mask = np.zeros((7, 7), np.bool_)
    mask[2:5, 2:5] = True
    assert outline(mask).sum() == 8 and not outline(mask)[3, 3]
    assert grown(mask, 1).sum() == 25 and grown(mask, 2).sum() == 49


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="split='test'"):
        make_scene(0, 0, "test")
    with pytest.raises(ConfigError, match="index=-1"):
        make_scene(0, -1)
    with pytest.raises(ConfigError, match="64 to 1024"):
        make_scene(0, 0, size=(32, 128))
