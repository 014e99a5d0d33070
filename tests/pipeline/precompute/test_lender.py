"""Which rows of other caches stand in for computing: never one whose bits might differ."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from svp.pipeline.cache import Plan, PlanImage, create_cache, made_by
from svp.pipeline.cache.image_list import Images
from svp.pipeline.cache.made_by import note_code
from svp.pipeline.precompute.lender import lenders
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig

ALL = {"superpixels", "features", "cls", "sam"}


def plan_of(
    first: int = 1,
    features: dict[str, object] | None = None,
    sam: Literal["float16", "int8"] = "float16",
    **pixels: object,
) -> Plan:
    """Two images, of which the first has the id `first`; what a cache of training stores."""
    recipe = Recipe(
        superpixels=SuperpixelConfig.model_validate(pixels),
        features=FeatureConfig.model_validate({"cls": True} | (features or {})),
        store_sam_embeddings=True,
        sam_stored=sam,
    )
    images = Images.of(PlanImage(i, f"{i}.png", 6, 5, 9, f"{i:016x}") for i in (first, 9))
    return Plan(recipe, images, (1, 1), 4, (2, 2), 1024, sam=(2, 3, 3))


def lent(folder: Path, plan: Plan) -> set[str]:
    """Kinds that a cache of the same settings and other images lends to `plan`."""
    other = replace(plan, images=plan_of(first=5).images)
    create_cache(folder, other)
    note_code(folder, other.layers)
    return {kind for lender in lenders(plan, plan.layers, [folder]) for kind in lender.kinds}


@pytest.mark.parametrize(
    ("plan", "kinds"),
    [
        (plan_of(), ALL),
        (plan_of(source="slic"), ALL),
        (plan_of(mode="fast"), ALL - {"superpixels", "sam"}),
        (plan_of(source="masks", made="sha256:" + "0" * 64), ALL - {"superpixels"}),
        (plan_of(source="mine", made="1"), ALL - {"superpixels"}),
        (plan_of(features={"stored": "int8"}), ALL - {"features"}),
        (plan_of(sam="int8"), ALL - {"sam"}),
    ],
    ids=["sam", "slic", "fast", "masks", "plug-in", "int8", "int8 SAM"],
)
def test_kinds_that_are_lent(plan: Plan, kinds: set[str], tmp_path: Path) -> None:
    assert lent(tmp_path / "other", plan) == kinds


def test_what_is_stored_in_fewer_bits_is_taken_from_float16(tmp_path: Path) -> None:
    exact, fewer = plan_of(), plan_of(features={"stored": "int8"}, sam="int8")
    other = replace(exact, images=plan_of(first=5).images)
    create_cache(tmp_path / "other", other)
    note_code(tmp_path / "other", other.layers)
    found = lenders(fewer, fewer.layers, [tmp_path / "other"])
    assert {kind for lender in found for kind in lender.kinds} == ALL


def test_a_cache_lends_itself_what_its_other_layers_are_made_of(tmp_path: Path) -> None:
    """Means of stored features need no encoder, whatever code made these."""
    exact, means = plan_of(), plan_of(features={"pooled": True})
    create_cache(tmp_path, exact)
    lacking = [means.layer("pooled")]
    (lender,) = lenders(means, lacking, [], tmp_path)
    assert lender.kinds == {"features"}
    assert lenders(exact, exact.layers, [], tmp_path) == (), "not what it lacks itself"
    assert lenders(means, lacking, [tmp_path]) == (), "of unknown code"


def test_other_code_and_other_settings_lend_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()
    assert lent(tmp_path / "other", plan) == ALL
    features = plan_of(features={"size": 70})
    found = lenders(features, features.layers, [tmp_path / "other"])
    assert {kind for one in found for kind in one.kinds} == {"superpixels", "sam"}
    monkeypatch.setattr(made_by, "code_digest", lambda: "0" * 64)
    assert lenders(plan, plan.layers, [tmp_path / "other", tmp_path / "gone"]) == ()
