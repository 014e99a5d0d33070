"""Passes over a data set: complete, in windows of shards, and reached anywhere without a sort."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.pipeline.errors import ConfigError, PlanMismatchError
from svp.train.data import keyed_rng, passes, permutation
from svp.train.data.passes import Stored, WindowPass, stored_order, window_of
from svp.train.data.permutation import LARGE, Feistel, Sorted, permutation_of
from svp.train.data.sampler import Cursor, Order

SA_1B = 11_185_362  # photographs


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
@settings(max_examples=150, deadline=None)
def test_feistel_is_a_permutation_with_its_inverse(n: int, key: int) -> None:
    found = Feistel(key, n).at(np.arange(n))
    assert sorted(found.tolist()) == list(range(n))
    place = n // 2
    assert Feistel(key, n).place(int(found[place])) == place


def test_feistel_is_frozen_and_needs_no_other_place() -> None:
    found = Feistel(5, SA_1B).at(np.arange(1000))
    alone = [int(Feistel(5, SA_1B).at(np.array([k]))[0]) for k in range(0, 1000, 97)]
    assert alone == found[::97].tolist()
    digest = hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()
    assert digest == "d1ba24926453c7ca3fdcd423b424fdd7fcb0d7aae26a9f4e2f23f87aeba6e2cf"


def test_feistel_looks_random() -> None:
    """As a sorted one does: where a number goes, fixed points, neighbours, pairs."""
    n, keys = 20_000, range(300)
    found = np.stack([Feistel(key, n).at(np.arange(n)) for key in keys])
    first = np.bincount(found[:, 0] * 10 // n, minlength=10)
    assert 10 <= first.min() and first.max() <= 52  # 30 each, 4 standard deviations
    fixed = (found == np.arange(n)).sum(1)
    assert 0.75 < fixed.mean() < 1.25  # Poisson of mean 1
    steps = np.abs(np.diff(found, axis=1)).mean() / n
    assert 0.332 < steps < 0.335  # a third
    correlation = np.corrcoef(found[0], np.arange(n))[0, 1]
    assert abs(correlation) < 0.03
    # A pair of places that differ in one row of the rectangle: the order of their numbers is open.
    assert 110 < (found[:, 0] < found[:, 142]).sum() < 190


def test_only_large_sets_leave_the_sorted_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of every set of version 1 stays what it was, up to the limit."""
    assert isinstance(permutation_of(1, LARGE), Sorted)
    assert isinstance(permutation_of(1, LARGE + 1), Feistel)
    order = Order([50_000], seed=3, sampling="proportional")
    assert order.version == 1
    wanted = keyed_rng.permutation(keyed_rng.key_of(3, "image", 0, 0), 50_000)
    assert [order.draw(k).entry for k in (0, 777, 49_999)] == wanted[[0, 777, 49_999]].tolist()
    assert Order([LARGE + 1, 5], seed=3).version == 2
    assert Order([LARGE, LARGE], seed=3).version == 1


def test_a_checkpoint_of_a_large_sorted_set_is_refused() -> None:
    values: dict[str, Any] = {
        "caches": ["ab" * 32], "table": "cd" * 32, "seed": 1, "sampling": "uniform", "sentences": 3,
        "global_batch": 160, "order_version": 2, "step": 0,
    }  # fmt: skip
    now, before = Cursor(**values), Cursor(**values | {"order_version": 1})
    with pytest.raises(PlanMismatchError, match="order_version: 1 there, 2 here"):
        now.goes_on(before.to_json())


ORDERS: list[Callable[[], Order]] = [
    lambda: Order([SA_1B], seed=1),
    lambda: Order([SA_1B, 3 * SA_1B], seed=1, sampling="proportional"),
    lambda: Order([SA_1B], seed=1, order="window:64"),
    lambda: Order([SA_1B, 900_000_000], seed=1, order="window:256"),
]


@pytest.mark.parametrize("make", ORDERS)
def test_a_batch_of_a_huge_set_sorts_and_allocates_little(
    make: Callable[[], Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any batch, the first of a fresh order too: no sort beyond a window's, no array of the set."""
    biggest = [0]

    def watched(plain: Callable[..., Any]) -> Callable[..., Any]:
        def act(values: Any, *more: Any, **named: Any) -> Any:
            biggest[0] = max(biggest[0], values if isinstance(values, int) else np.size(values))
            return plain(values, *more, **named)

        return act

    for name in ("argsort", "lexsort", "sort", "arange", "empty", "zeros"):
        monkeypatch.setattr(np, name, watched(getattr(np, name)))
    monkeypatch.setattr(permutation, "splitmix_array", watched(permutation.splitmix_array))
    order = make()
    for step in (0, 10**4, 10**12):
        assert len(set(order.batch(step, 256))) == 256
    assert 256 <= biggest[0] <= permutation.IN_WINDOW


@given(
    st.integers(1, 400), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**40),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_windows_hold_every_entry_once_and_their_own_blocks_alone(
    n: int, window: int, block: int, key: int
) -> None:
    found = WindowPass(key, n, window, block).entries(np.arange(n))
    assert sorted(found.tolist()) == list(range(n))
    blocks = found // block
    # Blocks follow one another in windows: once another window began, none of its come again.
    last = {int(b): int(np.flatnonzero(blocks == b)[-1]) for b in np.unique(blocks)}
    first = {int(b): int(np.flatnonzero(blocks == b)[0]) for b in np.unique(blocks)}
    for at in range(n):
        assert sum(first[b] <= at <= last[b] for b in first) <= window
    assert WindowPass(key, n, window, block).entries(np.array([n - 1])) == found[-1]


@pytest.mark.parametrize("limit", [0, 10**9])
def test_windows_are_complete_with_either_kind_of_permutation(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "IN_WINDOW", limit)
    found = WindowPass(9, 1000, 5, 7).entries(np.arange(1000))
    assert sorted(found.tolist()) == list(range(1000))


def test_window_order_is_frozen_and_independent_of_ranks_and_restarts() -> None:
    sizes = (700, 0, 300)

    def order() -> Order:
        return Order(sizes, seed=7, order="window:4")

    whole = [order().batch(step, 12) for step in range(100)]
    fresh = order()
    for world in (1, 2, 3, 5):
        for step in (99, 3, 50):  # any step, in any order
            ranks = [fresh.batch(step, 12, r, world) for r in range(world)]
            assert [ranks[k % world][k // world] for k in range(12)] == whole[step]
    flat = [draw for batch in whole for draw in batch]
    assert {d.visit for d in flat if d.entry < 700} == {0}
    assert Counter(d.entry >= 700 for d in flat) == {True: 600, False: 600}
    digest = hashlib.sha256(np.array(flat, "<i8").tobytes()).hexdigest()
    assert digest == "ca92d4d8445fff435d6df51926457260a63299a9e38fa755cbc9ceb15832160d"


def test_windows_follow_the_rows_not_the_table() -> None:
    """Entries are in the order of ids; a shard holds rows."""
    rng = np.random.default_rng(0)
    row = rng.permutation(640)
    cache = np.zeros(640, np.int64)
    stored = stored_order(cache, row, [640], 64)
    assert stored[0].block == 64 and stored[0].entries is not None
    order = Order([640], seed=1, order="window:2", stored=stored)
    for first in range(0, 640, 128):
        window = [order.draw(k).entry for k in range(first, first + 128)]
        assert len({int(row[e]) // 64 for e in window}) == 2
    # Already in order: nothing is kept. Half of the rows: half of a shard is a block.
    assert stored_order(cache, np.arange(0, 1280, 2), [640], 64) == [Stored(None, 32)]
    two = stored_order(np.repeat([1, 0], 320), np.tile(np.arange(320), 2), [640], 64)
    assert two[0].entries is not None and two[0].entries[0] == 320 and two[0].block == 64


@pytest.mark.parametrize(
    "text", ["windows:3", "window:0", "window:", "window:-1", "global\n", "", "shuffle"]
)
def test_an_order_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="global or window:N"):
        window_of(text)
    with pytest.raises(ConfigError, match="global or window:N"):
        Order([5], seed=0, order=text)


def test_a_cursor_of_another_order_is_refused_and_the_usual_one_is_not_written() -> None:
    values: dict[str, Any] = {
        "caches": ["ab" * 32], "table": "cd" * 32, "seed": 1, "sampling": "uniform", "sentences": 3,
        "global_batch": 160, "order_version": 1, "step": 0,
    }  # fmt: skip
    usual, window = Cursor(**values), Cursor(**values, order="window:64")
    assert "order" not in usual.to_json() and usual.goes_on(usual.at(5).to_json()).step == 5
    assert window.goes_on(window.at(5).to_json()).step == 5
    with pytest.raises(PlanMismatchError, match="order: global there, window:64 here"):
        window.goes_on(usual.to_json())


def test_a_batch_draws_from_few_shards_with_the_noise_of_so_many() -> None:
    """Figures of docs/training.md, on a smaller set: shards per batch, noise of a sorted label."""
    n, size, shard = 30_000, 256, 64
    label = np.arange(n) / n
    shards, noise = {}, {}
    for name in ("global", "window:32", "window:128"):
        order = Order([n], seed=2, order=name)
        batches = [[d.entry for d in order.batch(k, size)] for k in range(n // size)]
        shards[name] = np.mean([len({e // shard for e in batch}) for batch in batches])
        means = [label[batch].mean() for batch in batches]
        noise[name] = np.std(means) / (label.std() / size**0.5)
    assert shards["window:32"] < 45 and 100 < shards["window:128"] < 140 < shards["global"]
    assert 0.8 < noise["global"] < noise["window:128"] < noise["window:32"] < 4
    assert noise["window:32"] > 1.8 and noise["global"] < 1.2
