"""Small encoders of each published family: a folder in the hub's layout and what its own library says.

Rows keep their fields but the width, depth and view. No tensor is left at its neutral initial value.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from svp.pipeline.encoders.dinov3 import build_dinov3
from svp.pipeline.encoders.pe_spatial import architecture
from svp.pipeline.encoders.radio import build_radio
from svp.pipeline.encoders.siglip import build_siglip
from svp.pipeline.fetch.encoder_specs import ENCODERS, EncoderSpec

SIZE = 64  # pixels: 4x4 patches
# One row of each layout: gated and plain feed-forward, with and without CLS, biases, own widths.
NAMES = ("dinov3-small", "dinov3-huge-plus", "dinov3-7b", "pe-spatial-base", "pe-spatial-giant",
         "siglip2-so400m-384", "c-radio-v4-so400m")  # fmt: skip
Reference = tuple[Tensor, Tensor | None, Tensor]  # patches, whole view, patches of block 1


def narrow(monkeypatch: pytest.MonkeyPatch, name: str, size: int = SIZE) -> EncoderSpec:
    """Make the encoder `name` small for a test."""
    spec = ENCODERS[name]
    patch = spec.patch
    side = size // 16 * patch
    mlp = 72 if spec.mlp else 0
    small = replace(spec, hidden=32, blocks=2, heads=2, mlp=mlp, size=side)
    monkeypatch.setitem(ENCODERS, name, small)
    return small


def stirred(model: Any) -> Any:
    """Random values added to every parameter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_folder(spec: EncoderSpec, folder: Path) -> None:
    """The folder of the hub for a row: config.json and model.safetensors."""
    state, config = _WRITERS[spec.module](spec)
    folder.mkdir(exist_ok=True)
    kept = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def reference(spec: EncoderSpec, folder: Path, pixels: Tensor) -> Reference:
    """What transformers or timm computes from the folder; `pixels` are normalised (B,3,S,S)."""
    return _READERS[spec.module](spec, folder, pixels)


def _dinov3(spec: EncoderSpec) -> tuple[dict[str, Tensor], dict[str, object]]:
    model = stirred(build_dinov3(spec))
    state = {n.replace("model.layer.", "layer."): t for n, t in model.state_dict().items()}
    assert "layer.1.attention.o_proj.bias" in state
    assert "layer.1.attention.k_proj.bias" not in state
    assert ("layer.1.attention.q_proj.bias" in state) == spec.qkv_bias
    assert ("layer.1.mlp.gate_proj.weight" in state) == spec.swiglu
    # Fields of transformers' DINOv3ViTConfig as the hub's config.json writes them; no copy of a file.
    return state, {
        "architectures": ["DINOv3ViTModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0,
        "hidden_act": "silu" if spec.swiglu else "gelu", "hidden_size": 32, "image_size": 224,
        "initializer_range": 0.02, "intermediate_size": spec.inner, "key_bias": False,
        "layer_norm_eps": 1e-05, "layerscale_value": 1.0, "mlp_bias": True,
        "model_type": "dinov3_vit", "num_attention_heads": 2, "num_channels": 3,
        "num_hidden_layers": 2, "num_register_tokens": 4, "patch_size": 16,
        "pos_embed_jitter": None, "pos_embed_rescale": 2.0, "pos_embed_shift": None,
        "proj_bias": True, "query_bias": spec.qkv_bias, "rope_theta": 100.0,
        "torch_dtype": "float32", "transformers_version": "4.56.0.dev0",
        "use_gated_mlp": spec.swiglu, "value_bias": spec.qkv_bias,
    }  # fmt: skip


def _siglip(spec: EncoderSpec) -> tuple[dict[str, Tensor], dict[str, object]]:
    vision = stirred(build_siglip(spec)).state_dict()
    state = {f"vision_model.{name}": tensor for name, tensor in vision.items()}
    assert "vision_model.head.attention.in_proj_weight" in state
    text = {"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2),
            "text_model.head.bias": torch.zeros(2), "logit_scale": torch.zeros(1),
            "logit_bias": torch.zeros(1)}  # fmt: skip
    return state | text, {
        "architectures": ["SiglipModel"], "initializer_factor": 1.0, "model_type": "siglip",
        "text_config": {"hidden_size": 2, "model_type": "siglip_text_model", "vocab_size": 2},
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_size": 32, "image_size": spec.size, "intermediate_size": spec.inner,
            "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 2,
            "patch_size": 16,
        },
    }  # fmt: skip


def _radio(spec: EncoderSpec) -> tuple[dict[str, Tensor], dict[str, object]]:
    own = stirred(build_radio(spec)).state_dict()
    own["input_conditioner.norm_mean"] = torch.rand(3, 1, 1)
    own["input_conditioner.norm_std"] = torch.rand(3, 1, 1) + 0.5
    generator, state = "radio_model.model.patch_generator", dict[str, Tensor]()
    plain = {
        "embeddings.patch_projection.weight": f"{generator}.embedder.weight",
        "embeddings.position_embedding": f"{generator}.pos_embed",
        "embeddings.cls_register_token": f"{generator}.cls_token.token",
        "input_conditioner.norm_mean": "radio_model.input_conditioner.norm_mean",
        "input_conditioner.norm_std": "radio_model.input_conditioner.norm_std",
        "summary_idxs": "radio_model.summary_idxs",
    }
    for name, hub in plain.items():
        state[hub] = own[name]
    for i in range(spec.blocks):
        old, new = f"encoder.layer.{i}.", f"radio_model.model.blocks.{i}."
        for kind in ("weight", "bias"):
            parts = [own[f"{old}attention.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{new}attn.proj.{kind}"] = own[f"{old}attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{new}{name}.{kind}"] = own[f"{old}{name}.{kind}"]
    return state, {
        "architectures": ["RadioModel"], "model_type": "radio", "hidden_size": 32,
        "auto_map": {"AutoConfig": "hf_model.RADIOConfig", "AutoModel": "hf_model.RADIOModel"},
        "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": (spec.inner + 0.5) / 32,
        "patch_size": 16, "max_img_size": 2048, "num_cls_tokens": 3, "num_registers": 7,
        "torch_dtype": "float32",
    }  # fmt: skip


def timm_model(spec: EncoderSpec) -> Any:
    """timm's own model of the row's sizes, for its one input size."""
    timm = pytest.importorskip("timm")
    return timm.create_model(
        architecture(spec), pretrained=False, embed_dim=spec.hidden, depth=spec.blocks,
        num_heads=spec.heads, mlp_ratio=spec.inner / spec.hidden, img_size=spec.size,
    ).eval()  # fmt: skip


def _pe_spatial(spec: EncoderSpec) -> tuple[dict[str, Tensor], dict[str, object]]:
    model = stirred(timm_model(spec))
    return model.state_dict(), {
        "architecture": architecture(spec), "num_classes": 0, "num_features": spec.hidden,
        "pretrained_cfg": {"tag": "fb", "custom_load": False, "mean": [0.5, 0.5, 0.5]},
    }  # fmt: skip


def original_pe(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names to those of facebookresearch/perception_models' files."""
    swaps = (("patch_embed.proj.", "conv1."), ("norm_pre.", "ln_pre."),
             ("blocks.", "transformer.resblocks."), (".norm", ".ln_"), ("attn.qkv.", "attn.in_proj_"),
             ("attn.proj.", "attn.out_proj."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
             ("gamma_1", "ls_1.gamma"), ("gamma_2", "ls_2.gamma"))  # fmt: skip
    found = {}
    for name, tensor in state.items():
        if name == "cls_token":
            name, tensor = "class_embedding", tensor[0, 0]
        elif name == "pos_embed":
            name, tensor = "positional_embedding", tensor[0]
        for own, original in swaps:
            name = name.replace(own, original)
        found[name] = tensor
    return found


def _transformers(kind: str, prefix: int, norm: str, block: Callable[[Any], Any]) -> Any:
    def read(spec: EncoderSpec, folder: Path, pixels: Tensor) -> Reference:
        import transformers

        model: Any = getattr(transformers, kind).from_pretrained(folder).eval()
        seen: list[Tensor] = []
        block(model).register_forward_hook(lambda m, i, out: seen.append(out))
        with torch.no_grad():
            out = model(pixel_values=pixels)
            early = getattr(model, norm)(seen[0]) if norm else seen[0]
        last = out.last_hidden_state
        whole = out.pooler_output if prefix == 0 else last[:, 0]
        return last[:, prefix:], whole, early[:, prefix:]

    return read


def _timm(spec: EncoderSpec, folder: Path, pixels: Tensor) -> Reference:
    from timm.models import load_checkpoint

    model = timm_model(spec)
    load_checkpoint(model, str(folder / "model.safetensors"), strict=True)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        last = model.forward_features(pixels)
    skip = spec.prefix
    return last[:, skip:], last[:, 0] if skip else None, seen[0][:, skip:]


_WRITERS = {".dinov3": _dinov3, ".siglip": _siglip, ".radio": _radio, ".pe_spatial": _pe_spatial}
_READERS = {
    ".dinov3": _transformers("DINOv3ViTModel", 5, "norm", lambda m: m.model.layer[0]),
    ".siglip": _transformers(
        "SiglipVisionModel", 0, "post_layernorm", lambda m: m.encoder.layers[0]
    ),
    ".radio": _transformers("RadioModel", 10, "", lambda m: m.encoder.layer[0]),
    ".pe_spatial": _timm,
}
