"""The blocks give the numbers of Mask2Former's layers, and start as they do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svp.model.blocks import Attention, BlockStack, FeedForward, Look
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


class Stack(BlockStack):
    """Cross-attention to one memory in every layer, without what the other layers would do."""

    def __init__(self, only: str = "") -> None:
        super().__init__(dim=64, heads=8, blocks=1, ffn=128)
        for part in ("cross", "self_", "ffn"):
            if only not in ("", part):
                setattr(self, part, nn.ModuleList([Nothing(getattr(self, part)[0])]))

    def run(
        self, t: Tensor, pos: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        crossings = self.crossings()
        (k,), (v,) = crossings.all_layers(keys, 1), crossings.all_layers(values, 2)
        looks: list[Look] = [lambda q: self.cross[0].multihead_attn(q, k, v)]
        return self.decode(t, q_pos=pos, crossings=crossings, looks=looks, allowed=allowed)


class Nothing(nn.Module):
    """A layer that gives its input back, with the weights of `layer`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        for name, child in layer.named_children():
            setattr(self, name, child)

    def forward(self, t: Tensor, *_: Any) -> Tensor:
        return t


def check_layer(part: str, case: Any, run: Callable[[Stack, dict[str, Tensor]], Tensor]) -> None:
    """`check` of the only layer that does something."""
    stack = Stack(part)
    layer = getattr(stack, part)[0]
    check(layer, case, lambda x: run(stack, x))


def test_cross_layer_is_mask2formers(parity: Load) -> None:
    check_layer(
        "cross",
        parity("m2f_cross_post"),
        lambda stack, x: stack.run(x["tgt"], x["query_pos"], x["memory"] + x["pos"], x["memory"]),
    )


def test_self_layer_is_mask2formers(parity: Load) -> None:
    check_layer(
        "self_",
        parity("m2f_self_post"),
        lambda stack, x: stack.run(
            x["tgt"], x["query_pos"], x["tgt"], x["tgt"], ~x["tgt_key_padding_mask"][:, None, None]
        ),
    )


def test_feed_forward_is_mask2formers(parity: Load) -> None:
    layer = FeedForward(dim=64, hidden=128)
    check(layer, parity("m2f_ffn_post"), lambda x: layer(x["tgt"]))


def test_stack_runs_cross_then_self_then_ffn(parity: Load) -> None:
    cases = [parity(f"m2f_{name}_post") for name in ("cross", "self", "ffn")]
    state = {
        f"{part}.0.{k}": v
        for part, case in zip(("cross", "self_", "ffn"), cases, strict=True)
        for k, v in case.state.items()
    }
    x = {k: v.transpose(0, 1) for k, v in cases[0].input.items()}

    def run(t: Tensor, only: str) -> Tensor:
        stack = Stack(only)
        stack.load_state_dict(state, strict=True)
        return stack.run(t, x["query_pos"], x["memory"] + x["pos"], x["memory"])

    t = x["tgt"]
    for part in ("cross", "self_", "ffn"):
        t = run(t, part)
    torch.testing.assert_close(run(x["tgt"], ""), t, atol=1e-6, rtol=0)


@pytest.mark.parametrize("each", [True, False])
def test_positions_are_those_of_every_layer(each: bool) -> None:
    """One position for all images, or one each; against torch's layers in series, in float64."""
    torch.manual_seed(0)
    stack = BlockStack(dim=16, heads=4, blocks=2, ffn=24).double()
    for parameter in stack.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    t, keys, values = (torch.randn(3, n, 16, dtype=torch.float64) for n in (5, 7, 7))
    pos = torch.randn(3, 5, 16, dtype=torch.float64)[0 if not each else slice(None)]
    crossings = stack.crossings()
    every = zip(crossings.all_layers(keys, 1), crossings.all_layers(values, 2), strict=True)

    def look(attn: Any, k: Tensor, v: Tensor) -> Look:
        return lambda q: attn(q, k, v)

    looks = [look(layer.multihead_attn, *kv) for layer, kv in zip(stack.cross, every, strict=True)]
    got = stack.decode(t, q_pos=pos, crossings=crossings, looks=looks)
    for cross, among, ffn in zip(stack.cross, stack.self_, stack.ffn, strict=True):
        for ours, k, v in ((cross, keys, values), (among, None, None)):
            attn = ours.get_submodule("multihead_attn" if ours is cross else "self_attn")
            torchs = nn.MultiheadAttention(16, 4, batch_first=True).double()
            torchs.load_state_dict(attn.state_dict(), strict=True)
            q = t + pos
            seen = torchs(q, q if k is None else k, t if v is None else v)[0]
            t = ours.get_submodule("norm")(t + seen)
        t = ffn(t)
    torch.testing.assert_close(got, t, atol=1e-10, rtol=0)


def test_attention_equals_torchs_with_its_weights() -> None:
    ours = Attention(dim=32, heads=4)
    torchs = nn.MultiheadAttention(32, 4, batch_first=True)
    torchs.load_state_dict(ours.state_dict(), strict=True)
    q, k, v = (torch.randn(2, n, 32) for n in (5, 9, 9))
    got = ours(*ours.project(q, k, v))
    torch.testing.assert_close(got, torchs(q, k, v)[0], atol=1e-6, rtol=0)


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
