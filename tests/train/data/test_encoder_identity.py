"""A cache of another encoder file is refused by identity, not by shape."""

from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache.plan import Plan
from svp.pipeline.errors import ConfigError, PlanMismatchError
from svp.pipeline.recipe import FeatureConfig, Recipe
from svp.train.data.encoder_identity import (
    features_of,
    require_patches,
    require_same_features,
)

FILE, OTHER = (f"sha256:{digit * 64}" for digit in "ab")
FOUR = (12, 16, 22, 23)


def cache(weights: str = FILE, **fields: Any) -> Plan:
    """Plans whose features have one shape."""
    given = {"encoder": "dinov2-large", "size": 336, "weights": weights} | fields
    recipe = Recipe(features=FeatureConfig(**given))
    return Plan(recipe=recipe, images=(), grid=(24, 24), channels=1024, sspe=(64, 64), sam=None)


@pytest.mark.parametrize("projector", ["svp", "tokenpacker"])
def test_another_file_of_the_encoder_is_refused(projector: str) -> None:
    wanted = features_of(cache().recipe, projector)
    require_same_features(wanted, cache(), projector, "the run")
    require_same_features("", cache(OTHER), projector, "a run from before this was recorded")
    for other in (cache(OTHER), cache(view="pad"), cache(encoder="clip-large-336")):
        with pytest.raises(PlanMismatchError, match="the run reads dinov2-large sha256:aaaa"):
            require_same_features(wanted, other, projector, "the run")


def test_blocks_count_for_projectors_that_read_them() -> None:
    rich, other = cache(layers=FOUR), cache(layers=(21, 22, 23, 24))
    wanted = features_of(rich.recipe, "tokenpacker")
    with pytest.raises(PlanMismatchError, match="holds features of .*blocks 21,22,23,24; the run"):
        require_same_features(wanted, other, "tokenpacker", "the run")
    for plain in (other, cache()):  # SVP reads the last layer alone
        require_same_features(features_of(rich.recipe, "svp"), plain, "svp", "the run")


def test_how_features_are_stored_does_not_count() -> None:
    """int8 or float16, CLS beside them or not: the same features."""
    wanted = features_of(cache().recipe, "svp")
    require_same_features(wanted, cache(stored="int8", cls=True), "svp", "the run")


def test_a_thin_cache_is_refused_where_patches_are_read() -> None:
    thin, given = cache(stored="mean"), {"ssa_variant": "none"}
    require_patches("svp", given, thin)
    require_patches("fusion", {"svp": given}, thin)
    require_patches("svp", {}, cache(stored="mean+int4"))
    adds = r": `svp cache add CACHE features --encoder dinov2-large` adds them"
    for name, options in (("svp", {}), ("fusion", given), ("mlp", {}), ("pvtc", given)):
        with pytest.raises(ConfigError, match=rf"projector {name} reads patch features, .*{adds}"):
            require_patches(name, options, thin)
    with pytest.raises(
        ConfigError, match="`svp cache add 'my caches/x' features .*ssa_variant=none"
    ):
        require_patches("svp", {}, thin, Path("my caches/x"))


def test_a_second_encoder_counts_for_fusion() -> None:
    def pair(weights: str) -> Plan:
        return cache(second={"encoder": "clip-large-336", "weights": weights})

    wanted = features_of(pair(FILE).recipe, "fusion")
    assert wanted.endswith(f"beside clip-large-336 {FILE}")
    with pytest.raises(PlanMismatchError):
        require_same_features(wanted, pair(OTHER), "fusion", "the run")
