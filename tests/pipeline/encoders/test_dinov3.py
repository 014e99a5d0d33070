"""DINOv3: the hub's names, which tokens are patches, positions without a table, gated weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from svp.pipeline.encoders import build_encoder, registry
from svp.pipeline.encoders.dinov3 import Dinov3, build_dinov3
from svp.pipeline.errors import MissingError, WeightsError
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.weights.load import weights_digest

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
# Fields of transformers' DINOv3ViTConfig as the hub's config.json writes them; not a copy of a file.
CONFIG = {
    "architectures": ["DINOv3ViTModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0,
    "hidden_act": "gelu", "hidden_size": 32, "image_size": 224, "initializer_range": 0.02,
    "intermediate_size": 128, "key_bias": False, "layer_norm_eps": 1e-05, "layerscale_value": 1.0,
    "mlp_bias": True, "model_type": "dinov3_vit", "num_attention_heads": 2, "num_channels": 3,
    "num_hidden_layers": 2, "num_register_tokens": 4, "patch_size": 16, "pos_embed_jitter": None,
    "pos_embed_rescale": 2.0, "pos_embed_shift": None, "proj_bias": True, "query_bias": True,
    "rope_theta": 100.0, "torch_dtype": "float32", "transformers_version": "4.56.0.dev0",
    "use_gated_mlp": False, "value_bias": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    """Two blocks in which no tensor is left at its neutral initial value."""
    built = build_dinov3(32, 2, 2, 16, 5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


@pytest.fixture
def folder(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as on the hub; `dinov3-small` is as small."""
    narrow = replace(ENCODERS["dinov3-small"], hidden=32, blocks=2, heads=2)
    monkeypatch.setitem(ENCODERS, "dinov3-small", narrow)
    names = {name: name.replace("model.layer.", "layer.") for name in model.state_dict()}
    assert "layer.1.attention.o_proj.bias" in names.values()
    assert "layer.1.attention.k_proj.bias" not in names.values()
    state = {names[name]: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def asked(folder: Path, size: int = 64) -> FeatureConfig:
    return FeatureConfig(
        encoder="dinov3-small", size=size, weights=f"sha256:{weights_digest(folder)}", layers=(1,)
    )


@pytest.mark.parametrize("size", [64, 48])
def test_features_are_those_of_transformers(folder: Path, size: int) -> None:
    """transformers reads the same folder; a photograph of 40 x 60 is seen through the view."""
    from transformers import DINOv3ViTModel

    encoder = build_encoder(asked(folder, size), LocalPaths(images=Path(), encoder=folder), "cpu")
    found = encoder.encode([IMAGE])
    other: Any = DINOv3ViTModel.from_pretrained(folder).eval()
    seen = encoder.view.tensor(IMAGE, torch.device("cpu")).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (Dinov3.mean, Dinov3.std))
    blocks: list[torch.Tensor] = []
    other.model.layer[0].register_forward_hook(lambda m, i, out: blocks.append(out))
    with torch.no_grad():
        want = other((seen - mean) / std).last_hidden_state[0, 5:].numpy()
        early = other.norm(blocks[0])[0, 5:].numpy()
    assert found.layers is not None and want.shape == ((size // 16) ** 2, 32)
    np.testing.assert_allclose(found.patches[0], want, atol=1e-5)
    np.testing.assert_allclose(found.layers[0, 0], early, atol=1e-5)


def test_another_model_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_register_tokens": 0}))
    with pytest.raises(WeightsError, match="num_register_tokens is 0, this encoder has 4"):
        build_encoder(asked(folder), LocalPaths(images=Path(), encoder=folder), "cpu")


@pytest.mark.parametrize("download", [False, True])
def test_missing_weights_say_how_access_is_granted(
    download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, files: object, *, allow_download: bool = False) -> Path:
        raise MissingError("401")

    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "hub_folder", refused)
    monkeypatch.setattr(registry, "search_weights", lambda encoder: None)
    config = FeatureConfig(encoder="dinov3-large", size=384, weights=f"sha256:{'0' * 64}")
    with pytest.raises(MissingError, match="accept the DINOv3 License at https://huggingface.co"):
        build_encoder(config, LocalPaths(images=Path()), "cpu", allow_download=download)
