"""The blocks give the numbers of Mask2Former's layers, and start as they do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svp.model.blocks import Attention, BlockStack, CrossLayer, FeedForward, SelfLayer
from svp.pipeline.errors import ConfigError

Load = Callable[[str], Any]


def check(layer: nn.Module, case: Any, run: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Values, input gradients and gradient norms of one layer; cases are sequence first."""
    layer.load_state_dict(case.state, strict=True)
    inputs = {k: v.transpose(0, 1).clone() if v.dim() == 3 else v for k, v in case.input.items()}
    floats = {k: v.requires_grad_() for k, v in inputs.items() if v.is_floating_point()}
    out = run(inputs).transpose(0, 1)
    torch.testing.assert_close(out, case.output["out"], atol=1e-5, rtol=0)
    (out * case.probe).sum().backward()
    for name, x in floats.items():
        assert x.grad is not None
        torch.testing.assert_close(x.grad.transpose(0, 1), case.grad_input[name], atol=1e-5, rtol=0)
    case.check_gradients(layer, {k: k for k in case.state}, 1e-4)


def test_cross_layer_is_mask2formers(parity: Load) -> None:
    layer = CrossLayer(dim=64, heads=8)

    def run(x: dict[str, Tensor]) -> Tensor:
        keys, values = x["memory"] + x["pos"], x["memory"]
        out: Tensor = layer(x["tgt"], x["query_pos"], lambda attn, q: attn(q, keys, values))
        return out

    check(layer, parity("m2f_cross_post"), run)


def test_self_layer_is_mask2formers(parity: Load) -> None:
    layer = SelfLayer(dim=64, heads=8)

    def run(x: dict[str, Tensor]) -> Tensor:
        real = ~x["tgt_key_padding_mask"][:, None, None]
        out: Tensor = layer(x["tgt"], x["query_pos"], real)
        return out

    check(layer, parity("m2f_self_post"), run)


def test_feed_forward_is_mask2formers(parity: Load) -> None:
    layer = FeedForward(dim=64, hidden=128)
    check(layer, parity("m2f_ffn_post"), lambda x: layer(x["tgt"]))


def test_stack_runs_cross_then_self_then_ffn(parity: Load) -> None:
    cases = [parity(f"m2f_{name}_post") for name in ("cross", "self", "ffn")]
    stack = BlockStack(dim=64, heads=8, blocks=1, ffn=128)
    stack.load_state_dict(
        {
            f"{part}.0.{k}": v
            for part, case in zip(("cross", "self_", "ffn"), cases, strict=True)
            for k, v in case.state.items()
        },
        strict=True,
    )
    x = {k: v.transpose(0, 1) for k, v in cases[0].input.items()}
    keys = x["memory"] + x["pos"]
    got = stack.decode(
        x["tgt"], q_pos=x["query_pos"], attend=lambda attn, q: attn(q, keys, x["memory"])
    )
    first = stack.cross[0](x["tgt"], x["query_pos"], lambda attn, q: attn(q, keys, x["memory"]))
    assert torch.allclose(first.transpose(0, 1), cases[0].output["out"], atol=1e-5)
    want = stack.ffn[0](stack.self_[0](first, x["query_pos"]))
    assert torch.equal(got, want)


def test_attention_equals_torchs_with_its_weights() -> None:
    ours = Attention(dim=32, heads=4)
    torchs = nn.MultiheadAttention(32, 4, batch_first=True)
    torchs.load_state_dict(ours.state_dict(), strict=True)
    q, k, v = (torch.randn(2, n, 32) for n in (5, 9, 9))
    torch.testing.assert_close(ours(q, k, v), torchs(q, k, v)[0], atol=1e-6, rtol=0)


def test_start_values() -> None:
    torch.manual_seed(0)
    stack = BlockStack(dim=64, heads=8, blocks=1, ffn=256)
    attn = stack.get_submodule("cross.0.multihead_attn")
    assert isinstance(attn, Attention)
    assert attn.in_proj_weight.std().item() == pytest.approx(0.0878, rel=0.03)  # stacked
    assert attn.out_proj.weight.std().item() == pytest.approx(0.125, rel=0.03)
    assert not attn.in_proj_bias.any() and not attn.out_proj.bias.any()
    ffn = stack.get_submodule("ffn.0")
    assert isinstance(ffn, FeedForward)
    assert ffn.linear1.weight.abs().max().item() <= (6 / (64 + 256)) ** 0.5
    assert ffn.linear1.bias.any()  # torch's default


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="5 attention heads do not divide the width 64"):
        Attention(dim=64, heads=5)
