"""Micro-batches of samples of like length: every sample once, the sizes asked for, little padding."""

import random
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.loader_world import make_loader, make_table
from svp.train.data.length_cuts import by_length, most_samples
from svp.train.data.loader import Loader


def padding(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> float:
    """Share of the padded positions that is padding."""
    padded = sum(len(group) * max(lengths[place] for place in group) for group in groups)
    return 1 - sum(lengths) / padded


def in_order(count: int, micro: int) -> list[list[int]]:
    return [list(range(count))[i : i + micro] for i in range(0, count, micro)]


def equal(lengths: Sequence[int], micro: int) -> list[list[int]]:
    """Groups of `micro` in the order of lengths: no groups of one size pad less."""
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return [places[i : i + micro] for i in range(0, len(places), micro)]


@given(st.lists(st.integers(1, 1536), min_size=1, max_size=60), st.integers(1, 64))
def test_as_many_groups_as_equal_ones_and_no_larger(lengths: list[int], micro: int) -> None:
    groups = by_length(lengths, micro)
    assert len(groups) == -(-len(lengths) // micro), "ranks make equally many passes"
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert 1 <= min(map(len, groups)) and max(map(len, groups)) <= most_samples(micro)
    positions = [len(group) * max(lengths[place] for place in group) for group in groups]
    assert max(positions) <= micro * max(lengths)
    assert padding(lengths, groups) <= padding(lengths, equal(lengths, micro)) + 1e-12


@given(st.lists(st.integers(1, 9), min_size=3, max_size=9), st.integers(2, 3))
def test_no_allowed_cut_pads_less(lengths: list[int], micro: int) -> None:
    ordered, count = sorted(lengths, reverse=True), -(-len(lengths) // micro)
    if count == 1:
        return
    least = min(
        sum(sizes)
        for ends in combinations(range(1, len(ordered)), count - 1)
        for parts in [[ordered[i:j] for i, j in pairwise([0, *ends, len(ordered)])]]
        for sizes in [[len(part) * part[0] for part in parts]]
        if max(sizes) <= micro * ordered[0] and max(map(len, parts)) <= most_samples(micro)
    )
    assert padding(lengths, by_length(lengths, micro)) == pytest.approx(1 - sum(lengths) / least)


def photographs(seed: int) -> list[int]:
    """Positions of a global batch of 160: 5 to 100 superpixels (40 on average, the paper's), and one to
    three turns about an expression of a few words, as RefCOCO's.
    """
    draw = random.Random(seed)
    return [
        max(5, min(100, round(draw.gauss(40, 18)))) + 40
        + sum(22 + round(1.4 * draw.lognormvariate(1.6, 0.6)) for _ in range(draw.choice([1, 2, 3, 3, 3])))
        for _ in range(160)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("micro", "unsorted", "sorted_only", "after"),
    [(2, 0.08, 0.003, 0.004), (10, 0.2, 0.02, 0.03), (20, 0.2, 0.06, 0.05), (40, 0.2, 0.12, 0.115)],
)
def test_padding_of_photographs(
    micro: int, unsorted: float, sorted_only: float, after: float
) -> None:
    batches = [photographs(seed) for seed in range(10)]
    cut = [padding(lengths, by_length(lengths, micro)) for lengths in batches]
    same = [padding(lengths, equal(lengths, micro)) for lengths in batches]
    plain = [padding(lengths, in_order(160, micro)) for lengths in batches]
    assert min(plain) > unsorted and max(same) > sorted_only and max(cut) < after


def test_the_loader_keeps_the_samples_of_a_step_and_pads_less(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = make_table(tmp_path_factory.mktemp("tokens"))

    def first(loader: Loader) -> tuple[list[str], float]:
        steps = loader.steps(loader.start())
        step = next(steps)
        lengths = [batch.lengths for batch in step.batches]
        steps.close()
        padded = sum(len(one) * int(one.max()) for one in lengths)
        names = sorted(name for names in step.images for name in names)
        return names, 1 - sum(int(one.sum()) for one in lengths) / padded

    whole, much = first(make_loader(*made, micro=12))
    split, little = first(make_loader(*made, micro=3))
    assert whole == split and little < 0.06 and much > 0.1
