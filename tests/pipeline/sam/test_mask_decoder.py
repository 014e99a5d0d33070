"""The rearranged decoder computes the published one's result with about half the arithmetic."""

from typing import Any

import pytest
import torch

from svp.pipeline.sam.build import build_sam
from svp.pipeline.sam.mask_decoder import decode_shared, decoder_flops
from svp.pipeline.sam.tiny import build_tiny_sam


def both(sam: Any, prompts: int, seed: int) -> tuple[Any, Any]:
    """(published, ours) for random features and click codes."""
    generator = torch.Generator().manual_seed(seed)
    width = sam.mask_decoder.transformer_dim
    grid = sam.prompt_encoder.image_embedding_size
    features = torch.randn(1, width, *grid, generator=generator)
    points = torch.rand(prompts, 1, 2, generator=generator) * grid[0] * 8
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder((points, torch.ones(prompts, 1)), None, None)
        pe = sam.prompt_encoder.get_dense_pe()
        expected = sam.mask_decoder(features, pe, sparse, dense, multimask_output=True)
        return expected, decode_shared(sam.mask_decoder, features, pe, sparse, dense[:1])


@pytest.mark.parametrize("prompts", [1, 2, 9])
def test_equals_the_published_decoder(small_sam: Any, prompts: int) -> None:
    (logits, iou), (ours, our_iou) = both(small_sam, prompts, seed=prompts)
    assert ours.shape == logits.shape == (prompts, 3, 64, 64)
    assert (ours - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert (our_iou - iou).abs().max() <= 1e-5 * iou.abs().max()


def test_equals_the_published_decoder_at_other_sizes() -> None:
    (logits, _), (ours, _) = both(build_tiny_sam(), 6, seed=0)
    assert (ours - logits).abs().max() <= 1e-5 * logits.abs().max()


def test_full_size_flops() -> None:
    sam = build_sam("vit_b")  # on meta: counting runs no arithmetic
    stock, shared = decoder_flops(sam, prompts=256)
    assert stock / 256 == pytest.approx(3.62e9, rel=0.005)
    assert shared < 0.5 * stock
    one_stock, one_shared = decoder_flops(sam, prompts=1)
    assert one_stock == stock // 256
    assert one_shared < 0.85 * one_stock  # even without anything to share
