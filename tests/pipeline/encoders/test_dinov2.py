"""DINOv2 with registers: which tokens are patches, three weight layouts, positions."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from svp.pipeline.encoders.dinov2 import Dinov2, build_dinov2, shape
from svp.pipeline.errors import ConfigError
from svp.pipeline.weights.load import check_keys, expected_of

BLOCKS = 2


@pytest.fixture(scope="module")
def model() -> Any:
    """A small model in which no tensor is left at its neutral initial value."""
    built = build_dinov2(32, BLOCKS, 2, patch=14, trained_size=70)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


def original_layout(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """facebookresearch/dinov2's names, written down block by block."""
    e = "embeddings."
    yield "cls_token", state[e + "cls_token"]
    yield "mask_token", state[e + "mask_token"]
    yield "register_tokens", state[e + "register_tokens"]
    yield "pos_embed", state[e + "position_embeddings"]
    for kind in ("weight", "bias"):
        yield f"patch_embed.proj.{kind}", state[f"{e}patch_embeddings.projection.{kind}"]
        yield f"norm.{kind}", state[f"layernorm.{kind}"]
    for i in range(BLOCKS):
        old, new = f"blocks.{i}.", f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{new}attention.{part}_proj.{kind}"] for part in "qkv"]
            yield f"{old}attn.qkv.{kind}", torch.cat(parts)
            yield f"{old}attn.proj.{kind}", state[f"{new}attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                yield f"{old}{name}.{kind}", state[f"{new}{name}.{kind}"]
        for j in (1, 2):
            yield f"{old}ls{j}.gamma", state[f"{new}layer_scale{j}.lambda1"]


# Newer and older names of an attention's parts in transformers; which ones hold depends on the
# version that runs the tests.
PARTS = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def newer_layout(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        for new, old in PARTS.items():
            name = name.replace(old, new)
        yield name, tensor


def older_layout(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        for new, old in PARTS.items():
            name = name.replace(new, old)
        yield name, tensor


@pytest.mark.parametrize("layout", [original_layout, newer_layout, older_layout])
def test_other_layouts_give_the_same_numbers(model: Any, layout: Any) -> None:
    state = dict(layout(dict(newer_layout(model.state_dict()))))
    renamed = Dinov2(model).from_original(state)
    assert check_keys(renamed, expected_of(model)).ok
    other = build_dinov2(32, BLOCKS, 2, patch=14, trained_size=70)
    other.load_state_dict(renamed, strict=True)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = Dinov2(model).tokens(pixels, (1,))
        got = Dinov2(other).tokens(pixels, (1,))
    assert torch.equal(got.patches, want.patches) and torch.equal(got.layers[0], want.layers[0])


def plain_forward(w: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """The published architecture in plain torch, from the original's names; (B,1+4+P,C)."""
    batch, width = pixels.shape[0], w["cls_token"].shape[-1]
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    size = x.shape[2:]
    side = int((w["pos_embed"].shape[1] - 1) ** 0.5)
    table = w["pos_embed"][:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=size, mode="bicubic", antialias=True)
    x = (x + table).flatten(2).transpose(1, 2)
    cls = (w["cls_token"] + w["pos_embed"][:, :1]).expand(batch, -1, -1)
    x = torch.cat((cls, w["register_tokens"].expand(batch, -1, -1), x), dim=1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(BLOCKS):
        b = f"blocks.{i}."
        qkv = linear(norm(x, b + "norm1"), b + "attn.qkv")
        q, k, v = qkv.reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(dim=-1)
        out = linear((attention @ v).transpose(1, 2).flatten(2), b + "attn.proj")
        x = x + w[b + "ls1.gamma"] * out
        hidden = F.gelu(linear(norm(x, b + "norm2"), b + "mlp.fc1"))
        x = x + w[b + "ls2.gamma"] * linear(hidden, b + "mlp.fc2")
    return norm(x, "norm")


def test_equals_the_published_architecture(model: Any) -> None:
    weights = dict(original_layout(dict(newer_layout(model.state_dict()))))
    pixels = torch.randn(2, 3, 56, 42, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        want = plain_forward(weights, pixels, heads=2)
        got = Dinov2(model).tokens(pixels, ())
    torch.testing.assert_close(got.patches, want[:, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.cls, want[:, 0], atol=1e-5, rtol=1e-5)


def test_own_names_and_unknown_names_pass_through(model: Any) -> None:
    state, adapted = model.state_dict(), Dinov2(model)
    assert adapted.from_original(state).keys() == state.keys()
    assert set(adapted.from_original({"head.weight": torch.zeros(1)})) == {"head.weight"}


@pytest.mark.parametrize("layout", [newer_layout, older_layout])
def test_names_are_those_of_the_transformers_that_is_there(model: Any, layout: Any) -> None:
    """Shipped weights must load under every version that setup.cfg allows."""
    wanted = dict(layout(model.state_dict()))
    installed = SimpleNamespace(config=model.config, state_dict=lambda: wanted)
    renamed = Dinov2(installed).from_original(model.state_dict())  # type: ignore[arg-type]
    assert renamed.keys() == wanted.keys()
    assert all(torch.equal(renamed[name], wanted[name]) for name in wanted)


def test_patches_follow_cls_and_registers(model: Any) -> None:
    pixels = torch.randn(1, 3, 56, 42, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model(pixel_values=pixels).last_hidden_state
        got = Dinov2(model).tokens(pixels, ())
    assert whole.shape == (1, 1 + 4 + 12, 32)
    assert torch.equal(got.patches, whole[:, 5:]) and torch.equal(got.cls, whole[:, 0])


def test_layers_are_block_outputs_through_the_final_norm(model: Any) -> None:
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []
    hook = model.encoder.layer[0].register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        got = Dinov2(model).tokens(pixels, (2, 1))
        hook.remove()
        torch.testing.assert_close(got.layers[1], model.layernorm(seen[0])[:, 5:])
        torch.testing.assert_close(got.layers[0], got.patches)


@pytest.mark.parametrize(("height", "width"), [(336, 336), (518, 518), (224, 336)])
def test_positions_are_resized_antialiased(height: int, width: int) -> None:
    """The rule of dinov2/hub/backbones.py for the registers family: bicubic, antialias, size."""
    model: Any = build_dinov2(16, 1, 1)
    table = model.embeddings.position_embeddings
    assert table.shape == (1, 1 + 37 * 37, 16)
    gh, gw = height // 14, width // 14
    got = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + gh * gw, 16), height, width)
    square = table[:, 1:].reshape(1, 37, 37, 16).permute(0, 3, 1, 2)
    want = F.interpolate(square, size=(gh, gw), mode="bicubic", antialias=True)
    aliased = F.interpolate(square, size=(gh, gw), mode="bicubic", antialias=False)
    torch.testing.assert_close(got[0, 1:], want[0].flatten(1).T, rtol=0, atol=0)
    if height != 518:
        assert (got[0, 1:] - aliased[0].flatten(1).T).abs().max() > 1e-3


def test_published_size() -> None:
    with torch.device("meta"):
        large: Any = build_dinov2(*shape("dinov2-large"))
    assert sum(p.numel() for p in large.parameters()) == 304_372_736
    assert large.config.patch_size == 14 and large.config.image_size == 518
    with torch.device("meta"):
        out = Dinov2(large).tokens(torch.zeros(1, 3, 336, 336), ())
    assert out.patches.shape == (1, 576, 1024) and out.cls.shape == (1, 1024)


@pytest.mark.parametrize("size", [340, 13, 1])
def test_size_must_be_a_multiple_of_the_patch(model: Any, size: int) -> None:
    near = "336 or 350" if size == 340 else "14"
    with pytest.raises(ConfigError, match=f"features.size={size}: .* patch, 14 .*{near}"):
        Dinov2(model).require_size(size)
    Dinov2(model).require_size(336)
