"""Which superpixels a budget keeps: rules, thresholds, the selector and its text."""

import numpy as np
import pytest
from numpy.typing import NDArray

from svp.pipeline.cache.worth import TRAITS, Prior, spread_order, thresholds, traits
from svp.pipeline.errors import ConfigError
from svp.pipeline.recipe import OrderConfig
from svp.pipeline.records import Superpixels
from svp.pipeline.superpixels.budget import RULES, Described
from svp.pipeline.superpixels.budget.selector import AUTO, Budget, Selector, parse_budget
from svp.pipeline.superpixels.budget.ward_tree import ward_groups

# Three pairs of neighbours on a line.
LINE = np.array([[0.0], [1.0], [10.0], [11.0], [30.0], [31.0]])
AREA = np.array([5, 9, 9, 2, 7, 1])
WORTH = np.array([0.5, 0.25, 0.75, 0.125, 0.0, 0.25])


def described(key: int = 0) -> Described:
    return Described(LINE, AREA, WORTH, key)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_orders_all_superpixels(name: str) -> None:
    assert sorted(RULES[name](described()).tolist()) == list(range(6))
    one = Described(LINE[:1], AREA[:1], WORTH[:1])
    assert RULES[name](one).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("largest", [1, 2, 4, 0, 3, 5]),
        ("worth", [2, 0, 1, 5, 3, 4]),
        # The nearest to the mean 13.83; then 31, 20 away; 0; then 1, 10 and 30 are each 1 away.
        ("k-centre", [3, 5, 0, 1, 2, 4]),
        # 0.75; 0.25 at 31 (21 x 0.25) before 0.5 at 0 (10 x 0.5); the rest by worth times distance.
        ("worth x distance", [2, 5, 0, 1, 3, 4]),
    ],
)
def test_orders_of_known_superpixels(name: str, order: list[int]) -> None:
    assert RULES[name](described()).tolist() == order


def test_shapes_have_a_worth_of_their_own_where_it_is_known() -> None:
    assert RULES["worth by shape"](described()).tolist() == [2, 0, 1, 5, 3, 4]  # as "worth"
    known = Described(LINE, AREA, WORTH, shape=WORTH[::-1])
    assert RULES["worth by shape"](known).tolist() == [3, 5, 0, 4, 2, 1]


def test_a_random_order_is_a_function_of_the_key() -> None:
    drawn = {tuple(RULES["random"](described(key)).tolist()) for key in range(20)}
    assert len(drawn) > 10
    assert RULES["random"](described(3)).tolist() == RULES["random"](described(3)).tolist()


def test_copies_come_last_and_by_worth() -> None:
    means = np.array([[1.0], [1.0], [1.0], [4.0]])
    worth = np.array([0.25, 0.75, 0.5, 0.125])
    assert spread_order(worth, means).tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("n", "groups"), [(3, [0, 0, 1, 1, 2, 2]), (2, [0, 0, 0, 0, 1, 1]), (1, [0] * 6)]
)
def test_the_merge_tree_joins_what_is_near(n: int, groups: list[int]) -> None:
    assert ward_groups(LINE, n).tolist() == groups


def test_a_threshold_keeps_the_mean_it_is_of() -> None:
    rng = np.random.default_rng(0)
    worths = [rng.random(n).astype(np.float16) for n in (3, 12, 7, 30, 1, 19)]
    limits = thresholds(worths)
    assert len(limits) == 11 and list(limits) == sorted(limits, reverse=True)  # natural: 12
    for n, limit in enumerate(limits, 1):
        selector = Selector(above=limit)
        kept = [selector.kept(np.argsort(-w.astype(float), kind="stable"), w).sum() for w in worths]
        assert min(kept) >= 1 and np.mean(kept) == pytest.approx(n, abs=0.34)  # float16 has ties


def test_a_dial_keeps_the_first_or_the_worthy() -> None:
    order, worth = np.array([2, 0, 3, 1]), np.array([0.5, 0.125, 0.75, 0.25], np.float16)
    assert Selector(exact=2).kept(order, worth).tolist() == [True, False, True, False]
    assert Selector(exact=9).kept(order, worth).all()
    assert Selector(above=0.2).kept(order, worth).tolist() == [True, False, True, True]
    assert Selector(above=0.9).kept(order, worth).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("auto", AUTO),
        ("8", Budget(exact=8)),
        ("exact:8", Budget(exact=8)),
        ("mean:1024", Budget(mean=1024)),
        ("drawn", Budget(drawn=True)),
        ("ask:4", Budget(ask=4)),
    ],
)
def test_a_budget_as_text(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget
    assert parse_budget(budget.text) == budget


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "mean:0", "mean:1025", "mean:8.5", "8 ", "median:8"]
)
def test_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="auto, a number, mean:N, ask:N or drawn"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exact": 3, "mean": 4}, "exclude each other"),
        ({"mean": 4, "drawn": True}, "exclude each other"),
        ({"mean": 4, "ask": 3}, "exclude each other"),
        ({"exact": 3, "threshold": 0.5}, "threshold is that of `mean`"),
        ({"exact": 0}, "greater than or equal to 1"),
        ({"most": 3}, "Extra inputs"),
    ],
)
def test_contradictory_budgets_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget.model_validate(fields)


def test_a_mean_is_settled_by_the_caches_order() -> None:
    order = OrderConfig(prior="AAAA", thresholds=(0.75, 0.5, 0.25))
    settled = Budget(mean=2).settled(order)
    assert settled.threshold == 0.5 and len(settled.prior) == 64
    other = OrderConfig(prior="AAAA", thresholds=(0.625, 0.125))
    assert settled.selector(other) == Selector(above=0.5), "a checkpoint keeps its own"
    assert Budget(mean=2).selector(other) == Selector(above=0.125)
    with pytest.raises(ConfigError, match="mean:4: the images .* have 3 superpixels"):
        Budget(mean=4).selector(order)
    with pytest.raises(ValueError, match="thresholds must not rise"):
        OrderConfig(prior="AAAA", thresholds=(0.25, 0.5))


def superpixels() -> Superpixels:
    n = 2
    return Superpixels(
        height=10,
        width=20,
        rles=(b"", b""),
        level=np.array([1, 2], np.uint8),
        predicted_iou=np.full(n, 0.5, np.float32),
        stability=np.full(n, 0.25, np.float32),
        area=np.array([50, 2], np.int32),
        box=np.array([[0, 0, 9, 4], [19, 9, 19, 9]], np.int32),
        point=np.zeros((n, 2), np.float32),
        crop=np.zeros((n, 4), np.int32),
    )


def test_traits_and_worth_of_known_superpixels() -> None:
    found = traits(superpixels())
    assert found[0].tolist() == [np.log(0.25), 1, 0, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert found[1, -4:].tolist() == [0.975, 0.95, 0.05, 0.1]
    weights = np.zeros(3 + len(TRAITS) + 1, np.float32)
    weights[[0, 3 + 1, -1]] = [2, 1, -0.5]  # the first channel, part, constant
    prior = Prior.parse(Prior(weights).text())
    means: NDArray[np.float16] = np.array([[1, 9, 9], [0.25, 9, 9]], np.float16)
    wanted = 1 / (1 + np.exp([-2.5, 0.0]))
    assert prior.channels == 3
    assert prior.worth(means, superpixels()).tolist() == wanted.astype(np.float16).tolist()


@pytest.mark.parametrize("text", ["AAA", "AAAA", "AACAfwAA" * 10])
def test_no_prior(text: str) -> None:
    with pytest.raises(ConfigError, match=r"order\.prior"):
        Prior.parse(text)
