"""The cap by worth: what it keeps of any source, and that recipes without one are what they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.cache.worth import TRAITS, Prior
from svp.pipeline.recipe import OrderConfig, Recipe, SlicConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.superpixels.budget.selector import digest_of
from svp.pipeline.superpixels.cap import capped
from svp.pipeline.superpixels.generator import build_generator, generate
from svp.pipeline.superpixels.slic import slic_superpixels

BLOCKS = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
IMAGE = BLOCKS.repeat(16, axis=0).repeat(16, axis=1)  # even parts of 16x16 pixels


def prior(trait: str, weight: float) -> Prior:
    """The worth of a superpixel is a function of one trait alone."""
    weights = np.zeros(len(TRAITS) + 1, np.float32)
    weights[TRAITS.index(trait)] = weight
    return Prior(weights)


def test_the_most_worthy_stay_in_the_order_they_had() -> None:
    found = slic_superpixels(IMAGE)
    assert len(found) > 8
    kept = capped(found, prior("centre x", 8), 5)
    middle = found.box[:, [0, 2]].sum(axis=1)
    # Worth is stored as float16: of equal ones the first.
    worth = prior("centre x", 8).worth_of_shapes(found)
    want = np.sort(np.argsort(-worth.astype(float), kind="stable")[:5])
    assert kept.rles == tuple(found.rles[i] for i in want)
    for name in ("area", "box", "point", "crop", "level", "predicted_iou", "stability"):
        assert np.array_equal(getattr(kept, name), getattr(found, name)[want]), name
    assert middle[want].min() > np.median(middle)
    assert kept.survivors == {"labels": len(found), "kept": 5}
    assert capped(found, prior("centre x", 8), len(found)) is found


def test_a_source_is_capped_by_its_recipe() -> None:
    config = SuperpixelConfig(source="slic", slic=SlicConfig(n_segments=20), max_superpixels=4)
    small = prior("log of the share of the image", -1)
    by_worth = config.model_copy(update={"cap": small.text()})
    every = slic_superpixels(IMAGE, config.slic)
    largest, smallest = (
        generate(build_generator(c, LocalPaths(Path())), [IMAGE], ["a"], embeddings=False)[0][0]
        for c in (config, by_worth)
    )
    assert sorted(largest.area) == sorted(every.area)[-4:]
    assert sorted(smallest.area) == sorted(every.area)[:4]
    (again,), seen = build_generator(by_worth, LocalPaths(Path())).generate_batch([IMAGE])
    assert again.rles == smallest.rles and seen is None


def test_without_a_cap_by_worth_recipes_and_orders_are_what_they_were() -> None:
    assert "cap" not in SuperpixelConfig().model_dump()
    capped_by = SuperpixelConfig(cap=prior("part", 1).text())
    assert Recipe(superpixels=capped_by).digest() != Recipe().digest()
    order = OrderConfig(prior="AAAA", thresholds=(0.5,))
    assert "shape" not in order.model_dump()
    with_shape = order.model_copy(update={"shape": prior("part", 1).text()})
    assert digest_of(with_shape) == digest_of(order), "a run names the prior that it selects by"
    with pytest.raises(ValueError, match="String should match pattern"):
        SuperpixelConfig(cap="no base64!")


def test_a_record_that_another_step_counted_keeps_its_counts() -> None:
    found = replace(slic_superpixels(IMAGE), survivors={"filter": 30, "kept": 30})
    assert capped(found, prior("part", 1), 2).survivors == {"filter": 30, "kept": 2}
