"""Recorded attention is the attention: its weights make the module's own output again."""

from typing import Any

import pytest
import torch
from torch import Tensor

from svp.model.blocks import Attention
from svp.model.projectors import MaskInput, Projector, build_projector
from svp.model.projectors.qformer import BertAttention, QFormer
from svp.model.projectors.svp import SVP
from svp.train.figures.attention_hooks import looks, recorded
from svp.train.figures.attention_maps import apart, inside_share

SMALL: dict[str, Any] = {
    "num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
    "ssa_heads": 2, "ssa_blocks": 2, "ssa_ffn": 16, "mlp_hidden": 16,
}  # fmt: skip


def run(
    projector: Projector,
) -> tuple[list[Tensor], list[tuple[Any, ...]], list[Tensor], MaskInput]:
    """Weights, and inputs and outputs of the modules that attend to the patches."""
    draw = torch.Generator().manual_seed(3)
    cover = torch.rand(2, 5, 12, generator=draw) * (torch.rand(2, 5, 12, generator=draw) < 0.5)
    cover[:, :, 0] += 0.1
    masks = MaskInput(cover, (torch.rand(2, 5, 6, 6, generator=draw) < 0.5).to(torch.uint8))
    inputs: list[tuple[Any, ...]] = []
    outputs: list[Tensor] = []
    crossing = (
        [layer.multihead_attn for layer in projector.ssa.cross]  # type: ignore[misc]
        if isinstance(projector, SVP) and projector.ssa is not None
        else [one for one in projector.modules() if isinstance(one, BertAttention)][1::3]
    )
    for module in crossing:
        module.register_forward_hook(
            lambda _, given, out: (inputs.append(given), outputs.append(out))[0]
        )
    with torch.no_grad(), recorded(projector) as found:
        projector.eval()(
            torch.randn(2, 12, 8, generator=draw), (3, 4), masks=masks,
            mask_valid=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        )  # fmt: skip
    return found, inputs, outputs, masks


@pytest.mark.parametrize("variant", ["shared", "unshared", "unshared_bias"])
def test_weights_of_ssa(variant: str) -> None:
    projector = build_projector("svp", in_dim=8, llm_dim=16, ssa_variant=variant, **SMALL)
    assert isinstance(projector, SVP) and projector.ssa is not None
    assert looks(projector) == "superpixels"
    found, inputs, outputs, masks = run(projector)
    assert [tuple(one.shape) for one in found] == [(2, 2, 5, 12)] * 2
    for weights, given, out, layer in zip(found, inputs, outputs, projector.ssa.cross, strict=True):
        module = layer.multihead_attn
        assert isinstance(module, Attention)
        again = module.merge(weights @ module.by_head(given[2]))
        assert torch.allclose(again, out, atol=1e-5)
    if variant == "unshared_bias":
        outside = (masks.cover[0] == 0).expand(2, 5, 12)
        assert (found[0][0][outside] == 0).all()


def test_weights_of_the_qformer() -> None:
    projector = build_projector(
        "qformer", in_dim=8, llm_dim=16, tokens=6, hidden=8, layers=3, heads=2, ffn=16
    )
    assert isinstance(projector, QFormer) and looks(projector) == "queries"
    found, _, _, _ = run(projector)
    assert [tuple(one.shape) for one in found] == [(2, 2, 6, 12)] * 2, "every second layer crosses"
    for weights in found:
        assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 6))
    crosses = [layer.cross_attn for layer in projector.layers if layer.crosses]
    seen: list[Tensor] = []
    hook = crosses[0].out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found, _, _, _ = run(projector)
    hook.remove()
    patches = torch.Generator().manual_seed(3)
    for shape in ((2, 5, 12), (2, 5, 12), (2, 5, 6, 6)):
        torch.rand(shape, generator=patches)
    features = torch.randn(2, 12, 8, generator=patches)
    value = crosses[0].value(features).view(2, 12, 2, 4).transpose(1, 2)
    again = (found[0] @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(again, seen[0], atol=1e-5)


def test_projectors_without_attention_say_so() -> None:
    assert looks(build_projector("mlp", in_dim=8, llm_dim=16)) == ""
    assert looks(build_projector("svp", in_dim=8, llm_dim=16, ssa_variant="none", **SMALL)) == ""
    fused = build_projector("fusion", in_dim=8, llm_dim=16, sources=2, svp=SMALL)
    assert looks(fused) == "superpixels"


def test_what_is_told_of_a_map() -> None:
    maps = torch.zeros(4, 2, 2).numpy()
    maps[0, 0, 0] = maps[1, 0, 0] = 1
    maps[2, 1, 1] = maps[3, 0, 1] = 0.9
    assert apart(maps, 3) == [0, 2, 3]
    cover = torch.zeros(10, 10, dtype=torch.bool).numpy()
    cover[7:9, 6:8] = True
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).numpy()
    assert inside_share(weights, cover) == pytest.approx(0.4)
