"""Micro-batches of samples of like length: every sample once, the sizes asked for, little padding."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.loader_world import make_loader, make_table
from svp.train.data.loader import Loader, by_length


def padding(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> float:
    """Share of the padded positions that is padding."""
    padded = sum(len(group) * max(lengths[place] for place in group) for group in groups)
    return 1 - sum(lengths) / padded


def in_order(count: int, micro: int) -> list[list[int]]:
    return [list(range(count))[i : i + micro] for i in range(0, count, micro)]


@given(st.lists(st.integers(1, 1536), min_size=1, max_size=60), st.integers(1, 64))
def test_the_same_sizes_with_samples_of_like_length(lengths: list[int], micro: int) -> None:
    groups = by_length(lengths, micro)
    assert [len(group) for group in groups] == [len(g) for g in in_order(len(lengths), micro)]
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    if len(lengths) % micro == 0:  # as in training
        assert padding(lengths, groups) <= padding(lengths, in_order(len(lengths), micro)) + 1e-12


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
    ("micro", "before", "after"), [(2, 0.08, 0.01), (10, 0.2, 0.04), (20, 0.2, 0.08)]
)
def test_padding_of_photographs(micro: int, before: float, after: float) -> None:
    batches = [photographs(seed) for seed in range(10)]
    cut = [padding(lengths, by_length(lengths, micro)) for lengths in batches]
    plain = [padding(lengths, in_order(160, micro)) for lengths in batches]
    assert min(plain) > before and max(cut) < after


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
