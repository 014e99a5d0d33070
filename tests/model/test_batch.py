"""Bit-packed targets."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from svp.model.batch import IGNORE, Batch, pack_bits, unpack_bits


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_packing_is_exact_for_any_size(n: int, h: int, w: int, seed: int) -> None:
    masks = np.random.default_rng(seed).integers(0, 2, (n, h, w)).astype(np.uint8)
    packed = pack_bits(masks)
    assert packed.shape == (n, -(-h * w // 8))
    assert torch.equal(unpack_bits(packed, h * w).view(n, h, w), torch.from_numpy(masks))


def test_cover_keeps_its_precision(batch: Callable[..., Batch]) -> None:
    made = batch((1,))
    cover = torch.full((1, 1, 9), 1 / 3)
    visual = replace(made.visual, cover=cover, valid=torch.ones(1, 1, dtype=torch.bool))
    moved = replace(made, visual=visual).to("cpu", torch.bfloat16)
    assert moved.visual.patches.dtype == moved.sam.dtype == torch.bfloat16
    assert moved.visual.cover is not None and torch.equal(moved.visual.cover, cover)


def test_the_layout_is_what_the_tensors_hold(batch: Callable[..., Batch]) -> None:
    made = batch((2, 0, 1), sizes=((20, 32), (9, 9), (31, 17)))
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    made = replace(made, visual=replace(made.visual, cover=torch.ones(3, 2, 9), valid=valid))
    layout = made.to("cpu").layout
    assert layout.superpixels == (2, 1, 2) and layout.lengths == tuple(made.lengths.tolist())
    assert layout.real is not None and layout.real.tolist() == [0, 1, 2, 4, 5]
    assert layout.images == (0, 0, 2)
    places = torch.stack([layout.label_row, layout.label_col], 1)
    assert torch.equal(places, (made.labels != IGNORE).nonzero())
    assert [(one.size, one.members, one.index.tolist()) for one in layout.sizes] == [
        ((20, 32), (0, 1), [0, 1]), ((31, 17), (2,), [2]),
    ]  # fmt: skip
    assert layout.segs == (int(made.seg_col.min()), int(made.seg_col.max()))


def test_dialogues_share_their_ids_up_to_the_first_difference(batch: Callable[..., Batch]) -> None:
    made = batch((1, 1, 1))
    ids = made.ids[:1].repeat(3, 1)
    assert replace(made, ids=ids).layout.shared == ids.shape[1]
    ids[2, 4] += 1
    ids[1, 6:] += 1
    assert replace(made, ids=ids).layout.shared == 4


def test_a_layout_is_kept_and_made_again_for_other_ids(batch: Callable[..., Batch]) -> None:
    copied = batch((1, 2)).to("cpu")
    assert copied.known is not None and copied.layout is copied.known
    other = replace(copied, lengths=copied.lengths - 1)
    assert other.layout is not copied.known
    assert other.layout.lengths == tuple((copied.lengths - 1).tolist())
    assert other.map(torch.clone).known is None
    again = copied.map(torch.clone)
    assert again.known is not None and again.layout is again.known is not copied.known


def test_targets_of_a_size_are_those_of_its_images(batch: Callable[..., Batch]) -> None:
    sizes = ((20, 32), (9, 9), (20, 32), (31, 17))
    made = batch((2, 1, 3, 0), sizes=sizes)
    whole: dict[tuple[int, int], list[torch.Tensor]] = {size: [] for size in sizes}
    for size, targets in zip(sizes, made.targets(), strict=True):
        whole[size].extend(targets)
    for group in made.layout.sizes:
        assert torch.equal(made.targets_of(group), torch.stack(whole[group.size]))
    assert [group.size for group in made.layout.sizes] == [(20, 32), (9, 9)]


@pytest.mark.parametrize(("device", "later"), [("meta", False), ("cpu", False), ("cuda", True)])
def test_only_copies_to_cuda_are_left_to_be_made_later(
    batch: Callable[..., Batch], device: str, later: bool
) -> None:
    """What copies from the host's memory on another device may find it freed."""
    seen = []

    class Seen(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is not torch.Tensor.to:
                return func(*args, **kwargs or {})
            seen.append(kwargs["non_blocking"])
            return args[0]

    made = batch((1, 2))
    with Seen():
        made.to(device)
    assert len(seen) > 8 and set(seen) == {later}
