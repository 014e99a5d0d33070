"""Stand-ins for the published weights of SAM, DINOv2 and CLIP: names, formats and shapes.

The values are random, except that SAM's decoder is tuned so that some masks survive the selection:
a random one predicts an IoU near 0 and every image would be a single superpixel. Widths and depths
are those of the rehearsal settings (`pipeline.weights.rehearsal`); without them they are the published ones.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipeline.encoders.clip import shape as clip_shape
from ...pipeline.encoders.dinov2 import expected_config as dinov2_config
from ...pipeline.encoders.dinov2 import shape as dinov2_shape
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.sam.build import random_sam

if TYPE_CHECKING:
    from torch import Tensor

State = "dict[str, Tensor]"
SAM_FILES = {name: spec.files[0] for name, spec in SAMS.items() if spec.remote}
DINOV2_FOLDER, DINOV2_FILE = "dinov2-with-registers-large", "dinov2_vitl14_reg4_pretrain.pth"
CLIP_FOLDER = "clip-vit-large-patch14-336"
# The text tower is dropped by every reader here; it has the published names and one block.
_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def write_weights(folder: Path) -> None:
    """All stand-ins under their public names in `folder`, which is made."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for model, name in SAM_FILES.items():
        torch.save(sam_state(model), folder / name)
    _write_dinov2(folder)
    _write_clip(folder / CLIP_FOLDER)


def sam_state(model: str, seed: int = 0) -> "dict[str, Tensor]":
    """A SAM under the names of its published file; `model` is one of `SAM_FILES`."""
    sam = random_sam(model, seed)
    enliven(sam.prompt_encoder, sam.mask_decoder)
    if model != "vit_t":
        _tell_the_place(sam.image_encoder.pos_embed, seed)
    state: dict[str, Tensor] = sam.state_dict()
    return dict(_published_mobile(state)) if model == "vit_t" else state


def enliven(prompts: Any, decoder: Any) -> None:
    """Let a random SAM predict clear masks of a high score that depend on the prompt, in place."""
    import torch

    constant = (
        prompts.not_a_point_embed,
        prompts.point_embeddings[1],
        decoder.mask_tokens,
        decoder.iou_token,
    )
    with torch.no_grad():
        for part in constant:  # what is left of a token is where its prompt lies
            part.weight.mul_(0.05)
        decoder.iou_prediction_head.layers[-1].weight.mul_(0.1)
        decoder.iou_prediction_head.layers[-1].bias.fill_(0.95)
        for up in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
            up.weight.copy_(up.weight.mean((2, 3), keepdim=True).expand_as(up.weight))
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight.mul_(20_000)
            for layer in head.layers:
                layer.bias.zero_()


def _tell_the_place(table: Any, seed: int) -> None:
    """Slow waves as position embedding (1,S,S,C), in place: masks of few, local pieces."""
    import torch

    _, side, _, channels = table.shape
    generator = torch.Generator().manual_seed(seed)
    waves = 4 * torch.rand(channels, 2, generator=generator) - 2  # cycles per side
    phase = torch.rand(channels, generator=generator)
    ys, xs = torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="ij")
    turns = torch.stack([ys, xs], -1) @ waves.T + phase
    with torch.no_grad():
        table.copy_((2 * torch.pi * turns).sin()[None])


def _published_mobile(state: "dict[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    """Names of timm to those of MobileSAM's file: the inverse of `sam.mobile.map_keys`."""
    import torch

    for name, value in state.items():
        inner = name.removeprefix("image_encoder.vit.")
        if inner == name:
            yield name, value
            continue
        inner = inner.replace("patch_embed.conv1.", "patch_embed.seq.0.")
        inner = inner.replace("patch_embed.conv2.", "patch_embed.seq.2.")
        parts = inner.split(".")
        if parts[0] == "stages":
            moved = parts[2] == "downsample"
            parts[:2] = ["layers", str(int(parts[1]) - moved)]
        if parts[-2:] == ["conv", "weight"]:
            parts[-2] = "c"
        yield f"image_encoder.{'.'.join(parts)}", value
    for name in ("norm_head.weight", "norm_head.bias"):
        yield f"image_encoder.{name}", torch.ones(320)
    yield "image_encoder.head.weight", torch.zeros(1000, 320)
    yield "image_encoder.head.bias", torch.zeros(1000)


def _write_dinov2(folder: Path) -> None:
    """The hub's folder and the original's file, with the same values."""
    import torch
    from safetensors.torch import save_file

    from ...pipeline.encoders.dinov2 import build_dinov2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_dinov2(*dinov2_shape("dinov2-large"))
    original = dict(_original_dinov2(model.state_dict()))
    torch.save(original, folder / DINOV2_FILE)
    hub = folder / DINOV2_FOLDER
    hub.mkdir(exist_ok=True)
    save_file(dict(_hub_dinov2(original)), hub / "model.safetensors", metadata={"format": "pt"})
    _write_json(hub / "config.json", _DINOV2_CONFIG | dinov2_config("dinov2-large"))


_DINOV2_CONFIG: dict[str, object] = {
    "architectures": ["Dinov2WithRegistersModel"],
    "apply_layernorm": True,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "num_channels": 3,
    "qkv_bias": True,
    "reshape_hidden_states": True,
    "torch_dtype": "float32",
}


def _original_dinov2(state: "dict[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    """Names of the installed transformers to those of facebookresearch/dinov2."""
    import torch

    names = (
        ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.", ""),
        ("encoder.layer.", "blocks."),
        (".attention.o_proj.", ".attn.proj."),
        (".attention.output.dense.", ".attn.proj."),
        (".layer_scale1.lambda1", ".ls1.gamma"),
        (".layer_scale2.lambda1", ".ls2.gamma"),
        ("layernorm.", "norm."),
    )
    parts: dict[str, list[Tensor]] = {}
    for name, value in state.items():
        words = name.replace(".attention.attention.", ".attention.").split(".attention.")
        if len(words) == 2 and words[1][0] in "qkv":
            block = words[0].replace("encoder.layer.", "blocks.")
            parts.setdefault(f"{block}.attn.qkv.{words[1].rpartition('.')[2]}", []).append(value)
            continue
        for old, new in names:
            name = name.replace(old, new, 1)
        yield name, value
    for name, three in parts.items():
        yield name, torch.cat(three)


def _hub_dinov2(state: "dict[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    """Names of the original file to those of the hub's, written by transformers 4.x."""
    names = (
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("pos_embed", "embeddings.position_embeddings"),
        (".attn.proj.", ".attention.output.dense."),
        (".ls1.gamma", ".layer_scale1.lambda1"),
        (".ls2.gamma", ".layer_scale2.lambda1"),
        ("blocks.", "encoder.layer."),
    )
    for name, value in state.items():
        if name in ("cls_token", "mask_token", "register_tokens"):
            name = f"embeddings.{name}"
        elif name.startswith("norm."):
            name = f"layer{name}"
        for old, new in names:
            name = name.replace(old, new, 1)
        if ".attn.qkv." not in name:
            yield name, value.contiguous()
            continue
        for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
            yield name.replace(".attn.qkv.", f".attention.attention.{part}."), rows.contiguous()


def _write_clip(folder: Path) -> None:
    """The hub's folder of a whole CLIP: both towers under one index-less pytorch_model.bin."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    size = clip_shape("clip-large-336")
    vision = {
        "hidden_size": size["hidden"],
        "intermediate_size": 4 * size["hidden"],
        "num_hidden_layers": size["blocks"],
        "num_attention_heads": size["heads"],
        "image_size": size["size"],
        "patch_size": size["patch"],
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        text_config={"num_hidden_layers": 1, **_TEXT},
        vision_config=vision,
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CLIPModel(config)
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    _write_json(
        folder / "config.json",
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 64,
            "text_config": {"model_type": "clip_text_model", **_TEXT},
            "vision_config": {"model_type": "clip_vision_model", **vision},
        },
    )
    _write_json(folder / "preprocessor_config.json", _CLIP_PREPROCESSING)


_CLIP_PREPROCESSING: dict[str, object] = {
    "crop_size": 336,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 336,
}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
