"""A budget in batches: which superpixels become tokens, the rest as one, one draw per global batch."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from support.loader_world import make_table, vocabulary
from svp.pipeline.cache import CacheReader
from svp.pipeline.cache.layout import PLAN
from svp.pipeline.cache.order_layer import make_order, ordered
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.worth import TRAITS, Prior, thresholds
from svp.pipeline.errors import ConfigError, PlanMismatchError
from svp.pipeline.recipe import OrderConfig
from svp.pipeline.superpixels.budget.selector import Budget, Selector
from svp.train.data.budget_draw import BudgetDraw, require_budget
from svp.train.data.collate import CachedVisuals
from svp.train.data.expression_table import ExpressionTable
from svp.train.data.loader import Draws, Loader, RankSlice

World = tuple[ExpressionTable, CacheReader]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A table and its cache of 30 images with 1 to 6 superpixels, ordered."""
    table, cache = make_table(tmp_path_factory.mktemp("budget"))
    assert isinstance(cache.path, Path)
    weights = np.random.default_rng(0).standard_normal(8 + len(TRAITS) + 1).astype(np.float32)
    order = OrderConfig(prior=Prior(weights).text(), thresholds=(0.5,))
    make_order(cache.path, PLAN, ordered(cache.plan, order))
    view = next(view for view in all_plans(cache.path) if view != PLAN)
    limits = thresholds([CacheReader(cache.path, view=view).worth(i) for i in range(len(cache))])
    again = order.model_copy(update={"thresholds": limits})
    make_order(cache.path, PLAN, ordered(Plan.load(cache.path), again))  # another plan, same layer
    views = [view for view in all_plans(cache.path) if view != PLAN]
    assert len(views) == 2
    return table, CacheReader(cache.path, view=views[1])


def read(world: World, selector: Selector | None, rows: list[int], keys: list[int | None]):  # type: ignore[no-untyped-def]
    table, cache = world
    entries = [table.entry(row) for row in rows]
    visual, _, _ = CachedVisuals([cache], {"masks"}, selector=selector).read(entries, keys)
    return visual, entries


@pytest.mark.parametrize("key", [None, 7])
def test_kept_superpixels_and_the_rest(world: World, key: int | None) -> None:
    rows = list(range(8))
    keys = [key] * len(rows)
    whole, entries = read(world, None, rows, keys)
    few, _ = read(world, Selector(exact=2), rows, keys)
    for b, entry in enumerate(entries):
        n = world[1].count(entry.row)
        assert int(few.valid[b].sum()) == (n if n <= 2 else 3)
        first = set(world[1].order(entry.row)[:2].tolist())
        shares = world[1].cover(entry.row)
        places = {shares[k].tobytes(): k for k in range(n)}
        order = [places[row.numpy().tobytes()] for row in whole.cover[b, :n]]
        kept = [k for k in order if k in first]  # in the order that all of them have
        rest = [k for k in order if k not in first]
        assert [places[row.numpy().tobytes()] for row in few.cover[b, : len(kept)]] == kept
        if rest:
            union = shares[rest].astype(np.float32).sum(axis=0).clip(max=1).astype(np.float16)
            assert few.cover[b, 2].numpy().tolist() == union.tolist()
            cells = whole.masks[b, :n][[order.index(k) for k in rest]].amax(0)
            assert torch.equal(few.masks[b, 2], cells)
        assert not few.cover[b, 3:].any() and not few.masks[b, 3:].any()


def test_a_budget_that_leaves_none_out_is_no_budget(world: World) -> None:
    """Bit for bit, whatever the order of superpixels."""
    for keys in ([None] * 5, [1, 2, 3, 4, 5]):
        whole, _ = read(world, None, list(range(5)), keys)
        for selector in (Selector(exact=6), Selector(above=0.0)):
            same, _ = read(world, selector, list(range(5)), keys)
            for name in ("cover", "masks", "valid", "patches"):
                assert torch.equal(getattr(whole, name), getattr(same, name))


def test_a_mean_is_met_on_average(world: World) -> None:
    cache = world[1]
    order = cache.plan.recipe.order
    assert order is not None
    selector = Budget(mean=2).selector(order)
    kept = [selector.kept(cache.order(i), cache.worth(i)).sum() for i in range(len(cache))]
    assert np.mean(kept) == pytest.approx(2, abs=0.1) and len(set(kept)) > 2


def loader(world: World, rank: int = 0, ranks: int = 1, seed: int = 5) -> Loader:
    table, cache = world
    return Loader(
        table, CachedVisuals([cache], {"masks"}), vocabulary(),
        Draws(seed=seed, global_batch=4, budget=BudgetDraw.of(seed, [cache])),
        RankSlice(micro_batch=2, rank=rank, world=ranks, threads=1),
    )  # fmt: skip


def test_draws_are_the_same_on_every_rank_and_after_a_restart(world: World) -> None:
    whole = loader(world)
    steps = list(islice(whole.steps(whole.start()), 12))
    again = list(islice(whole.steps(steps[7].cursor), 4))
    parts = [loader(world, rank, 2) for rank in range(2)]
    split = [list(islice(part.steps(part.start()), 12)) for part in parts]

    def tokens(*found: object) -> list[int]:
        counts = [b.visual.valid.sum(1) for step in found for b in step.batches]  # type: ignore[attr-defined]
        return sorted(torch.cat(counts).tolist())

    for number, step in enumerate(steps):
        assert tokens(step) == tokens(split[0][number], split[1][number])
    assert [tokens(step) for step in again] == [tokens(step) for step in steps[8:]]
    assert tokens(*steps) != tokens(
        *islice(loader(world, seed=6).steps(whole.start() | {"seed": 6}), 12)
    )


def test_half_of_the_draws_are_all_and_the_others_spread_on_a_log_scale() -> None:
    draw = BudgetDraw(3, 16.2, tuple(np.linspace(0.9, 0.1, 16).tolist()))
    found = [draw.at(step) for step in range(4000)]
    assert found == [draw.at(step) for step in range(4000)]
    exact = [
        selector.exact for selector in found if selector is not None and selector.exact is not None
    ]
    # Of a mean above the natural one, log(1.5) of log(1.5 x 16.2 / 4), there is none: all stay.
    share = 0.5 * 0.5 * np.log(24.3 / 16.5) / np.log(24.3 / 4)
    assert found.count(None) / 4000 == pytest.approx(0.5 + share, abs=0.03)
    assert (min(exact), max(exact)) == (4, 24)
    assert np.median(exact) == pytest.approx(np.sqrt(4 * 24.3), abs=1)


def test_what_a_budget_does_not_go_with(world: World) -> None:
    cache = world[1]
    settled = Budget(mean=2).settled(cache.plan.recipe.order)  # type: ignore[arg-type]
    require_budget(settled, "svp", cache.plan)
    require_budget(Budget(), "mlp", cache.plan)
    with pytest.raises(ConfigError, match="projector mlp makes no token of a superpixel"):
        require_budget(settled, "mlp", cache.plan)
    with pytest.raises(ConfigError, match="no order .* `svp cache order"):
        require_budget(settled, "svp", Plan.load(cache.path))
    other = settled.model_copy(update={"prior": "0" * 64})
    with pytest.raises(PlanMismatchError, match="order by another prior"):
        require_budget(other, "svp", cache.plan)
