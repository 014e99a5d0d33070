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
    places = torch.stack([layout.label_row, layout.label_col], 1)
    assert torch.equal(places, (made.labels != IGNORE).nonzero())
    masks = layout.masks
    assert masks.images == (0, 0, 2) and masks.matrix.tolist() == [0, 0, 1]
    assert masks.filled[masks.place].tolist() == [0, 1, 2] and len(masks.filled) == 3 * 2
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


def test_targets_of_all_masks_are_those_of_their_images(batch: Callable[..., Batch]) -> None:
    """Padded to the largest photograph, also where a row of pixels does not fill its bytes."""
    sizes = ((20, 32), (9, 9), (20, 32), (31, 17))
    made = batch((2, 1, 3, 0), sizes=sizes)
    masks = made.layout.masks
    found, beyond = masks.targets(), masks.beyond()
    assert found.shape == (6, 20, 32) and found.dtype == torch.bool and beyond is not None
    alone = [mask for targets in made.targets() for mask in targets]
    for image, mask, padding, wanted in zip(masks.images, found, beyond, alone, strict=True):
        height, width = sizes[image]
        assert torch.equal(mask[:height, :width], wanted > 0)
        assert not padding[:height, :width].any() and int((~padding).sum()) == height * width
        assert not (mask & padding).any()
    assert batch((2, 1)).layout.masks.beyond() is None


def test_targets_that_a_batch_does_not_have_are_refused(batch: Callable[..., Batch]) -> None:
    masks = replace(batch((1,)), packed=None).layout.masks
    with pytest.raises(ValueError, match="without target masks"):
        masks.targets()


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

    made = batch((1, 2)).with_layout()
    with Seen():
        made.to(device)
    assert len(seen) > 8 and set(seen) == {later}
