"""Visual tokens in the place of <image>: by index, for any number of tokens."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.model.merge import merge


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Text lengths, slots and visual counts of a batch of up to four."""
    size = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(2, 9), min_size=size, max_size=size))
    slots = [draw(st.integers(0, n - 1)) for n in lengths]
    visual = draw(st.lists(st.integers(1, 7), min_size=size, max_size=size))
    return lengths, slots, visual


@given(batches())
@settings(max_examples=60, deadline=None)
def test_every_token_lands_where_plain_lists_put_it(case: tuple[list[int], ...]) -> None:
    lengths, slots, visual = case
    size, t, k = len(lengths), max(lengths), max(visual)
    text = torch.arange(size * t, dtype=torch.float32).view(size, t, 1)
    tokens = -1 - torch.arange(size * k, dtype=torch.float32).view(size, k, 1)
    valid = torch.arange(k)[None] < torch.tensor(visual)[:, None]
    out = merge(text, torch.tensor(lengths), torch.tensor(slots), tokens, valid)
    for row, (n, s, v) in enumerate(zip(lengths, slots, visual, strict=True)):
        words, seen = text[row, :n, 0].tolist(), tokens[row, :v, 0].tolist()
        wanted = words[:s] + seen + words[s + 1 :]
        assert out.embeds[row, : len(wanted), 0].tolist() == wanted
        assert int(out.lengths[row]) == len(wanted)
        assert bool((out.embeds[row, len(wanted) :] == 0).all())
        for col in set(range(n)) - {s}:
            place = out.index(torch.tensor([row]), torch.tensor([col]))
            assert out.embeds[row, int(place), 0] == text[row, col, 0]


def test_576_tokens_give_glamm_s_offset_of_575() -> None:
    text, tokens = torch.zeros(1, 40, 2), torch.ones(1, 576, 2)
    valid = torch.ones(1, 576, dtype=torch.bool)
    out = merge(text, torch.tensor([40]), torch.tensor([5]), tokens, valid)
    assert out.index(torch.tensor([0, 0]), torch.tensor([4, 30])).tolist() == [4, 30 + 575]


def test_gradients_reach_text_and_tokens() -> None:
    text = torch.randn(2, 6, 3, requires_grad=True)
    tokens = torch.randn(2, 4, 3, requires_grad=True)
    valid = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    out = merge(text, torch.tensor([6, 5]), torch.tensor([2, 1]), tokens, valid)
    out.embeds.sum().backward()
    assert text.grad is not None and tokens.grad is not None
    assert text.grad[0, 2].abs().sum() == 0  # <image> itself is replaced
    assert text.grad[1, 5].abs().sum() == 0  # padding of the text
    assert tokens.grad[:, :, 0].tolist() == [[1.0] * 4, [1.0, 1.0, 0.0, 0.0]]
