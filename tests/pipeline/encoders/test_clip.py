"""CLIP: layer -2, no CLS, one input size, the vision part of any published file."""

from typing import Any

import pytest
import torch
from torch import Tensor

from svp.pipeline.encoders.clip import Clip, build_clip, fill_buffers, shape
from svp.pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_clip(**(shape("clip-tiny") | {"size": 32}))


def test_patches_are_the_last_block_but_one_without_cls(model: Any) -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda m, i, out, at=at: seen.update({at: out}))
        for at, block in enumerate(model.encoder.layers, start=1)
    ]
    with torch.no_grad():
        got = Clip(model).tokens(pixels, (1, 3))
    for hook in hooks:
        hook.remove()
    assert sorted(seen) == [1, 2, 3] and got.patches.shape == (2, 16, 64)
    assert torch.equal(got.patches, seen[2][:, 1:]) and torch.equal(got.cls, seen[2][:, 0])
    assert torch.equal(got.layers[0], seen[1][:, 1:])
    assert torch.equal(got.layers[1], seen[3][:, 1:])


def test_vision_part_of_a_whole_clip(model: Any) -> None:
    state = {f"vision_model.{name}": t for name, t in model.state_dict().items()}
    whole = state | {
        "text_model.embeddings.token_embedding.weight": torch.zeros(2, 2),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_projection.weight": torch.zeros(2, 2),
        "visual_projection.weight": torch.zeros(2, 2),
        "logit_scale": torch.tensor(1.0),
    }
    assert Clip(model).from_original(whole).keys() == model.state_dict().keys()
    assert Clip(model).from_original(model.state_dict()).keys() == model.state_dict().keys()
    assert "head.weight" in Clip(model).from_original({"head.weight": torch.zeros(1)})


def test_published_size() -> None:
    with torch.device("meta"):
        large: Any = build_clip(**shape("clip-large-336"))
    assert sum(p.numel() for p in large.parameters()) == 303_507_456
    assert large.config.hidden_act == "quick_gelu"
    with torch.device("meta"):
        out = Clip(large).tokens(torch.zeros(1, 3, 336, 336), (6, 23))
    assert out.patches.shape == (1, 576, 1024) and len(out.layers) == 2


def test_a_model_built_without_memory_computes_the_same(model: Any) -> None:
    with torch.device("meta"):
        other: Any = build_clip(**(shape("clip-tiny") | {"size": 32}))
    other.load_state_dict(model.state_dict(), assign=True)
    fill_buffers(other)
    assert not any(tensor.is_meta for tensor in (*other.parameters(), *other.buffers()))
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want, got = (Clip(m).tokens(pixels, ()).patches for m in (model, other))
    assert torch.equal(got, want)


def test_other_sizes_are_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="features.size=40: this CLIP model takes 32 only"):
        Clip(model).require_size(40)
