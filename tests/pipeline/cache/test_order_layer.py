"""The layer of order and worth: beside what is there, of its bytes alone, mended like any other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.loader_world import write_cache
from svp.pipeline.cache import CacheReader, repair, verify
from svp.pipeline.cache.exchange import copy_cache, drop_layers
from svp.pipeline.cache.layers import ORDER
from svp.pipeline.cache.layout import PLAN
from svp.pipeline.cache.order_layer import make_order, ordered
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.stored_means import stored_means
from svp.pipeline.cache.worth import TRAITS, Prior, spread_order
from svp.pipeline.errors import CacheError, PlanMismatchError
from svp.pipeline.recipe import OrderConfig

Tree = Callable[[Path], dict[str, bytes]]


def order_by(seed: int) -> OrderConfig:
    weights = np.random.default_rng(seed).standard_normal(8 + len(TRAITS) + 1)
    return OrderConfig(prior=Prior(weights.astype(np.float32)).text(), thresholds=(0.75, 0.5))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Seven images in two shards, the third one bad."""
    write_cache(tmp_path / "cache", range(1, 8), bad=[3])
    return tmp_path / "cache"


def content(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in tree.items() if not name.startswith("logs/")}


def make(cache: Path, seed: int = 0) -> Plan:
    plan = ordered(Plan.load(cache), order_by(seed))
    make_order(cache, PLAN, plan)
    return plan


def test_what_is_stored(cache: Path, tree_of: Tree) -> None:
    before = content(tree_of(cache))
    plan = make(cache)
    after = content(tree_of(cache))
    new = {name for name in after if name not in before}
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in new} == {"order", "views"}
    reader = CacheReader(cache, view=next(view for view in all_plans(cache) if view != PLAN))
    assert reader.plan.id == plan.id and reader.complete and verify(cache, full=True).ok
    assert reader.status(2) == "quarantined"
    prior = Prior.parse(order_by(0).prior)
    for row in (0, 1, 3, 4, 5, 6):
        means = stored_means(reader, row)
        share = reader.cover(row).astype(float)
        mean = share @ reader.features(row).astype(float) / share.sum(axis=1, keepdims=True)
        assert np.allclose(means, mean, atol=2e-3)
        worth = prior.worth(means, reader.superpixels(row))
        assert reader.worth(row).tolist() == worth.tolist()
        assert reader.order(row).tolist() == spread_order(worth, means).tolist()
        assert sorted(reader.order(row)) == list(range(reader.count(row)))
    with pytest.raises(CacheError, match="stores no array 'order'|no array order"):
        CacheReader(cache).order(0)


def test_the_same_bytes_again_and_after_a_repair(
    cache: Path, tmp_path: Path, tree_of: Tree
) -> None:
    other = tmp_path / "other"
    copy_cache(cache, other)
    make(cache), make(other)
    whole = content(tree_of(cache))
    assert content(tree_of(other)) == whole
    make(cache)
    assert content(tree_of(cache)) == whole
    damaged = next((cache / "order").glob("*/worth/c/1/0"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    assert not verify(cache, full=True).ok
    assert repair(cache) == [1]
    make(cache)
    assert content(tree_of(cache)) == whole and verify(cache, full=True).ok


def test_of_means_that_are_stored(tmp_path: Path, cache: Path) -> None:
    """A thin copy has the means that the full cache's order is made of, but its plan has no order."""
    make(cache)
    view = next(view for view in all_plans(cache) if view != PLAN)
    full = CacheReader(cache, view=view)
    thin = tmp_path / "thin"
    kept = copy_cache(cache, thin, thin=True)
    assert kept.recipe.order is None
    make_order(thin, PLAN, ordered(kept, order_by(0)))
    (name,) = (view for view in all_plans(thin) if view != PLAN)
    found = CacheReader(thin, view=name)
    for row in (0, 1, 3, 6):
        assert found.worth(row).tobytes() == full.worth(row).tobytes()
        assert found.order(row).tobytes() == full.order(row).tobytes()


def test_another_prior_only_once_the_first_is_dropped(cache: Path) -> None:
    make(cache)
    with pytest.raises(PlanMismatchError, match="order/.* is there and made otherwise"):
        make(cache, 1)
    assert [*drop_layers(cache, [ORDER])] == ["order/tiny-128-sam-tiny"]
    assert [*all_plans(cache)] == [PLAN]
    plan = make(cache, 1)
    assert plan.layer(ORDER).made["prior"] != ordered(plan, order_by(0)).layer(ORDER).made["prior"]


def test_an_unfinished_cache_has_no_order_yet(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", range(1, 8))
    next((tmp_path / "cache").glob("features/*/manifest/*.json")).unlink()
    for record in (tmp_path / "cache").glob("features/*/[Ci][On]*"):
        record.unlink()
    with pytest.raises(CacheError, match="not complete: run the same `svp precompute`"):
        make(tmp_path / "cache")
