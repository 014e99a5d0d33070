"""Table 4's encoders: boxes and mask vectors, checked by hand."""

import pytest
import torch
from torch import nn

from svp.model.projectors.svp.sspe_variants import (
    VARIANTS,
    BoxMLP,
    MaskMLP,
    SumOf,
    build_sspe,
    tight_boxes,
)
from svp.pipeline.errors import ConfigError

SIZES = {"out_dim": 12, "queries": 3, "dim": 16, "heads": 4, "blocks": 1, "ffn": 24}


def test_boxes_are_tight_with_exclusive_right_and_bottom() -> None:
    masks = torch.zeros(3, 4, 8, dtype=torch.uint8)
    masks[0, 1, 2] = masks[0, 2, 5] = 1
    masks[1] = 1
    want = [[2 / 8, 1 / 4, 6 / 8, 3 / 4], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert tight_boxes(masks).tolist() == want


def test_box_mlp_sees_only_the_box() -> None:
    model = BoxMLP(out_dim=6)
    masks = torch.zeros(2, 5, 5, dtype=torch.uint8)
    masks[0, 1:4, 1:4] = 1
    masks[1, 1, 1] = masks[1, 3, 3] = 1
    torch.testing.assert_close(*model(masks), rtol=1e-6, atol=1e-7)


def test_mask_mlp_reads_coverage_in_raster_order() -> None:
    model = MaskMLP(out_dim=4)
    seen: list[torch.Tensor] = []
    model.mlp[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    masks = torch.zeros(1, 48, 48, dtype=torch.uint8)
    masks[0, 2, 4:6] = 1  # half of cell (1, 2)
    model(masks)
    assert seen[0].nonzero().tolist() == [[0, 24 + 2]] and seen[0][0, 26] == 0.5


def test_mask_mlp_takes_another_grid() -> None:
    model = build_sspe("mask_mlp", **SIZES, mask_side=6)
    assert isinstance(model, MaskMLP) and model.mlp[0].in_features == 36
    assert model(torch.ones(2, 9, 9, dtype=torch.uint8)).shape == (2, 12)
    with pytest.raises(ConfigError, match="mask_side=0"):
        MaskMLP(out_dim=4, side=0)


def test_sum_is_the_sum_of_its_parts() -> None:
    both = build_sspe("bbox_mlp+mask_att", **SIZES)
    assert isinstance(both, SumOf)
    masks = (torch.rand(3, 8, 8) > 0.5).to(torch.uint8)
    box, attention = both.parts
    torch.testing.assert_close(both(masks), box(masks) + attention(masks))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_one_vector_per_mask(variant: str) -> None:
    model = build_sspe(variant, **SIZES)
    if variant == "none":
        assert model is None
        return
    assert isinstance(model, nn.Module)
    out = model((torch.rand(3, 8, 8) > 0.5).to(torch.uint8))
    assert out.shape == (3, 12)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="sspe_variant 'mask'"):
        build_sspe("mask", **SIZES)
