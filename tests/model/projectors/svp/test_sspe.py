"""SSPE: the shortcut equals attention over every pixel, in values and in gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.model.projectors.svp.sspe import SSPE


def encoder(seed: int = 0, dtype: torch.dtype = torch.float64) -> SSPE:
    torch.manual_seed(seed)
    model = SSPE(out_dim=12, queries=3, dim=16, heads=4, blocks=3, ffn=24).to(dtype)
    for parameter in model.parameters():  # no zero biases, or a forgotten one would not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def both_ways(model: SSPE, masks: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
    """Values and parameter gradients by the shortcut and by plain attention."""
    results = []
    for plain in (False, True):
        model.plain = plain
        model.zero_grad()
        out = model(masks)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(grads) == len(list(model.parameters()))
        results.append((out, grads))
    return results


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 4),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    soft=st.booleans(),
)
def test_shortcut_is_exact(n: int, h: int, w: int, seed: int, soft: bool) -> None:
    model = encoder(seed)
    masks = torch.rand(n, h, w, dtype=torch.float64)
    if not soft:
        masks = (masks > 0.5).to(torch.uint8)
    (fast, fast_grads), (plain, plain_grads) = both_ways(model, masks)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=0)
    torch.testing.assert_close(fast_grads, plain_grads, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_masks_are_exact_with_finite_gradients(fill: int) -> None:
    masks = torch.full((2, 6, 5), fill, dtype=torch.uint8)
    masks[1, 2, 3] = 1 - fill  # all but one pixel: the smallest other side
    (fast, fast_grads), (plain, plain_grads) = both_ways(encoder(), masks)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=0)
    torch.testing.assert_close(fast_grads, plain_grads, atol=1e-10, rtol=1e-9)
    assert all(grad.isfinite().all() for grad in fast_grads)


@pytest.mark.parametrize("scale", [10, 1000])
def test_sharp_attention_in_float32(scale: int) -> None:
    """Scores 87 apart underflow: beyond what a softmax resolves, but nothing may become NaN."""
    model = encoder(dtype=torch.float32)
    with torch.no_grad():
        model.query_pos.weight.mul_(scale)
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[0, 0, 0] = masks[1, 7, 7] = 1
    (fast, grads), (plain, _) = both_ways(model, masks)
    assert fast.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    if scale == 10:
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=0)


def test_binary_numbers_as_floats_give_the_same() -> None:
    model, masks = encoder(), (torch.rand(5, 7, 9) > 0.6).to(torch.uint8)
    torch.testing.assert_close(model(masks), model(masks.double()), atol=1e-10, rtol=0)


def test_each_superpixel_is_encoded_alone() -> None:
    model, masks = encoder(), (torch.rand(5, 7, 9) > 0.6).to(torch.uint8)
    alone = torch.cat([model(mask[None]) for mask in masks])
    torch.testing.assert_close(model(masks), alone, atol=1e-12, rtol=0)


def test_place_and_shape_matter() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[0, :3, :3] = masks[1, 4:7, 4:7] = masks[2, :3, 0] = 1
    corner, moved, cut = encoder()(masks)
    assert (corner - moved).abs().max() > 1e-3 and (corner - cut).abs().max() > 1e-3


def test_runs_under_autocast_with_scores_in_float32() -> None:
    model, masks = encoder(dtype=torch.float32), (torch.rand(4, 16, 16) > 0.5).to(torch.uint8)
    want = model(masks)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(masks)
    torch.testing.assert_close(got.float(), want, atol=0.15, rtol=0)
