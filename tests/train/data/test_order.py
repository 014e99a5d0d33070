"""The order of samples: golden, complete, and the same for any number of ranks and any restart."""

import hashlib
import json
import random
from collections import Counter
from itertools import islice, pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.pipeline.errors import CacheError, ConfigError, PlanMismatchError
from svp.train.data.sampler import Cursor, Order, SampleRef, Sampling

SIZES = (16, 5, 9)


def digest(draws: list[SampleRef]) -> str:
    return hashlib.sha256(np.array(draws, "<i8").tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("sampling", "golden"),
    [
        ("uniform", "64e838744c3163a0145d5731c24c4fbf74a3a39f61dc247d80bebbbff94c128c"),
        ("proportional", "7e7f673d3824ce1fe697bf8c1883d52d511014e1cb5518a1e8aa9277d3510069"),
    ],
)
def test_order_is_frozen(sampling: Sampling, golden: str) -> None:
    order = Order((700, 0, 300), seed=7, sampling=sampling)
    assert digest([order.draw(k) for k in range(3000)]) == golden


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any),
    st.integers(0, 2**63 - 1),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_proportional_passes_hold_every_entry_once(
    sizes: list[int], seed: int, passed: int
) -> None:
    n, order = sum(sizes), Order(sizes, seed=seed, sampling="proportional")
    draws = [order.draw(passed * n + k) for k in range(n)]
    assert sorted(d.entry for d in draws) == list(range(n))
    assert {d.visit for d in draws} == {passed}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any), st.integers(0, 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_uniform_gives_each_data_set_its_share_and_true_passes(sizes: list[int], seed: int) -> None:
    order = Order(sizes, seed=seed)
    used = [n for n in sizes if n]
    draws = [order.draw(k) for k in range(len(used) * max(used))]
    bounds = np.cumsum([0, *sizes])
    for first, last in pairwise(bounds):
        mine = [d for d in draws if first <= d.entry < last]
        assert len(mine) == (max(used) if last > first else 0)
        seen = Counter(mine)  # (entry, visit): no entry twice in one pass
        assert all(count == 1 for count in seen.values())


def test_passes_differ_and_seeds_differ() -> None:
    def entries(seed: int, passed: int) -> list[int]:
        order = Order([50], seed=seed)
        return [order.draw(50 * passed + k).entry for k in range(50)]

    assert entries(0, 0) != entries(0, 1) and entries(0, 0) != entries(1, 0)


def test_first_place_is_uniform() -> None:
    first = Counter(Order([6], seed=seed).draw(0).entry for seed in range(6000))
    assert all(850 < first[i] < 1150 for i in range(6))  # 5 standard deviations


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_two_hundred_kills_and_world_sizes_give_the_uninterrupted_stream(
    sampling: Sampling,
) -> None:
    """Killed at a random step and resumed with another number of ranks."""
    rng = random.Random(1)
    size, steps, worlds = 12, 20, [1, 2, 3, 4, 5, 6, 7, 8, 12]
    order = Order(SIZES, seed=3, sampling=sampling)
    whole = [order.batch(step, size) for step in range(steps)]
    for _ in range(200):
        killed = rng.randint(0, steps)
        got: list[list[SampleRef]] = []
        for part in (range(killed), range(killed, steps)):
            world, fresh = rng.choice(worlds), Order(SIZES, seed=3, sampling=sampling)
            for step in part:
                ranks = [fresh.batch(step, size, r, world) for r in range(world)]
                got.append([ranks[k % world][k // world] for k in range(size)])
        assert got == whole


def test_ranks_split_evenly_where_the_batch_divides() -> None:
    order = Order(SIZES, seed=3)
    assert [len(order.batch(4, 160, r, 4)) for r in range(4)] == [40] * 4
    assert [len(order.batch(4, 10, r, 4)) for r in range(4)] == [3, 3, 2, 2]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match="no image"):
        Order([0, 0], seed=1)


def cursor(**changes: object) -> Cursor:
    values: dict[str, object] = {
        "caches": ["ab" * 32], "table": "cd" * 32, "seed": 1, "sampling": "uniform",
        "sentences": 3, "global_batch": 160, "order_version": 1, "step": 0,
    }  # fmt: skip
    return Cursor.model_validate(values | changes)


def test_a_cursor_goes_on_where_it_was() -> None:
    stored = json.loads(json.dumps(cursor().at(1234).to_json()))
    assert cursor().goes_on(stored) == cursor(step=1234)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("caches", ["ef" * 32]), ("table", "ee" * 32), ("seed", 2), ("sampling", "proportional"),
        ("sentences", 1), ("global_batch", 80), ("order_version", 2),
    ],
)  # fmt: skip
def test_a_cursor_of_another_stream_is_refused(name: str, value: object) -> None:
    other = cursor(**{name: value}).at(9)
    with pytest.raises(PlanMismatchError, match=name) as caught:
        cursor().goes_on(other.to_json())
    shown = value[0] if isinstance(value, list) else value
    assert str(shown) in str(caught.value)


@pytest.mark.parametrize("raw", [{}, {"step": -1}, cursor().to_json() | {"step": 1.5}])
def test_a_damaged_cursor_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(CacheError, match="cursor is damaged"):
        cursor().goes_on(raw)  # type: ignore[arg-type]


def test_any_sample_is_reached_without_the_ones_before() -> None:
    order = Order(SIZES, seed=3)
    far = 10**15
    assert order.draw(far) == Order(SIZES, seed=3).draw(far)
    stream = (order.draw(far + k) for k in range(100))
    assert len(set(islice(stream, 30))) == 30
