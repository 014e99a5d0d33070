"""Write a random checkpoint in the published folder layout of GLaMM or LISA.

Names, dtypes, shards, config.json and tokenizer files are those of MBZUAI/GLaMM-RefSeg and
xinlai/LISA-7B-v1; values are random, from a seed. The language model may be small, and parts that no
run here reads (SAM's image encoder, the region encoder) have their names and dtypes but few numbers.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .convert import expected_shapes
from .key_mapping import DECODER, LAYOUTS, LLAMA_VOCAB, LM, PROMPT_ENCODER, TO_PROMPT, Layout
from .llama_shape import LlamaShape
from .stand_in_tokenizer import write_sentencepiece

if TYPE_CHECKING:
    from torch import Tensor

SMALL = LlamaShape(hidden=64, intermediate=176, layers=2, heads=4, kv_heads=4)
CLIP = 1024  # channels of CLIP ViT-L/14, which both projectors read
_FEW = 4  # longest side of a tensor that is dropped on import


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def write_standin(
    folder: Path,
    layout: str = "glamm",
    *,
    shape: LlamaShape = SMALL,
    shards: int = 2,
    seed: int = 0,
    full: bool = False,
    vision: int = CLIP,
) -> Path:
    """Write a checkpoint folder and return it; `folder` must not hold another one.

    layout   "glamm" or "lisa"
    shape    of the language model; its `vocab` is set by the layout
    shards   files the tensors are spread over
    vision   channels that `mm_projector` reads
    full     dropped parts have their true shapes too (2.5 GB of image encoder)

    Raises MissingPackageError without sentencepiece.
    """
    chosen = LAYOUTS[layout]
    shape = replace(shape, vocab=LLAMA_VOCAB + len(chosen.tokens))
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, list(_tensors(chosen, shape, full, vision)), shards, seed)
    _write_json(folder / "config.json", _config(chosen, shape, vision))
    _write_json(folder / "generation_config.json", _GENERATION)
    write_words(folder, chosen)
    return folder


def write_words(folder: Path, layout: Layout | None) -> None:
    """The tokenizer's files: LLaMA's four as Vicuna has them, and the added tokens of a layout."""
    write_sentencepiece(folder / "tokenizer.model")
    _write_json(folder / "special_tokens_map.json", _SPECIAL)
    _write_json(folder / "tokenizer_config.json", _TOKENIZER)
    if layout is not None:
        _write_json(folder / "added_tokens.json", dict(sorted(layout.ids().items())))


def _write_weights(folder: Path, tensors: list[_Tensor], shards: int, seed: int) -> None:
    """Shards of about equal size, one in memory at a time."""
    make = torch.Generator().manual_seed(seed)
    sizes = [math.prod(t.shape) * t.dtype.itemsize for t in tensors]
    total, filled, part, where = sum(sizes), 0, 0, {}
    held: dict[str, Tensor] = {}
    names = [f"pytorch_model-{n + 1:05}-of-{shards:05}.bin" for n in range(shards)]
    for tensor, size in zip(tensors, sizes, strict=True):
        if held and filled >= (part + 1) * total / shards and part + 1 < shards:
            torch.save(held, folder / names[part])
            held, part = {}, part + 1
        held[tensor.name] = _values(tensor, make)
        where[tensor.name] = names[part]
        filled += size
    torch.save(held, folder / names[part])
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    _write_json(folder / "pytorch_model.bin.index.json", index)


def _values(tensor: _Tensor, make: torch.Generator) -> "Tensor":
    """Values of the size a fresh model has: norms one, biases small, SAM's Fourier matrix normal."""
    if tensor.name.endswith(".weight") and len(tensor.shape) == 1:
        return torch.ones(tensor.shape, dtype=tensor.dtype)
    spread = 0.02 if len(tensor.shape) < 2 else min(0.5, tensor.shape[-1] ** -0.5)
    if tensor.name.endswith("gaussian_matrix"):
        spread = 1.0
    return (torch.randn(tensor.shape, generator=make) * spread).to(tensor.dtype)


def _tensors(layout: Layout, shape: LlamaShape, full: bool, vision: int) -> Iterator[_Tensor]:
    """Every tensor of the published checkpoint, in the order of the model's modules."""
    half, single = torch.bfloat16, torch.float32
    groups = expected_shapes(shape, {})
    for name, sizes in groups[LM].items():
        yield _Tensor(name, sizes, half)
    for layer in range(shape.layers):
        inner = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        yield _Tensor(inner, (shape.hidden // shape.heads // 2,), half)
    for name, sizes in _mm_projector(layout, shape.hidden, vision):
        yield _Tensor(f"model.mm_projector.{name}", sizes, half)
    for name, sizes in groups[TO_PROMPT].items():
        yield _Tensor(f"model.text_hidden_fcs.0.{name}", sizes, single)
    for name, sizes in _image_encoder():
        yield _Tensor(f"model.{layout.sam}.image_encoder.{name}", _cut(sizes, full), single)
    for part, group in (("prompt_encoder", PROMPT_ENCODER), ("mask_decoder", DECODER)):
        for name, sizes in groups[group].items():
            yield _Tensor(f"model.{layout.sam}.{part}.{name}", sizes, single)
    if layout.name == "glamm":
        for name, sizes in _region_encoder(shape.hidden):
            yield _Tensor(f"model.region_encoder.{name}", _cut(sizes, full), half)


def _mm_projector(
    layout: Layout, hidden: int, vision: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    linears = [("", vision)] if layout.name == "lisa" else [("0.", vision), ("2.", hidden)]
    for prefix, width in linears:
        yield f"{prefix}weight", (hidden, width)
        yield f"{prefix}bias", (hidden,)


def _image_encoder() -> Iterator[tuple[str, tuple[int, ...]]]:
    from ...pipeline.sam.build import build_sam

    sam: Any = build_sam("vit_h")
    for name, value in sam.image_encoder.state_dict().items():
        yield name, tuple(value.shape)


def _region_encoder(hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """GLaMM's reader of boxes (its MLVLROIQueryModule): 43 tensors."""
    wide = 1024
    for n in range(4):
        yield f"mlvl_fuse.input_conv.{n}.weight", (wide, wide + 2, 1, 1)
        yield f"mlvl_fuse.input_conv.{n}.bias", (wide,)
    for n in range(5):
        yield f"mlvl_fuse.fuse_convs.{n}.conv.weight", (wide, wide, 3, 3)
        yield f"mlvl_fuse.fuse_convs.{n}.gn.weight", (wide,)
        yield f"mlvl_fuse.fuse_convs.{n}.gn.bias", (wide,)
    for n in range(4):
        yield f"roi_align.pconvs.{n}.weight", (wide, wide, 3, 3)
        yield f"roi_align.pconvs.{n}.bias", (wide,)
    places = {0: (256, 4), 3: (wide, 256), 2: (256,), 5: (wide,)}
    for n, sizes in places.items():
        yield f"roi_align.pos_embedd.{n}.weight", sizes
        yield f"roi_align.pos_embedd.{n}.bias", sizes[:1]
    yield "roi_align.updims.weight", (hidden, wide)
    yield "roi_align.updims.bias", (hidden,)
    yield "roi_align.flatten_linear.weight", (wide, wide * 14 * 14)
    yield "roi_align.flatten_linear.bias", (wide,)


def _cut(sizes: tuple[int, ...], full: bool) -> tuple[int, ...]:
    return sizes if full else tuple(min(size, _FEW) for size in sizes)


def _config(layout: Layout, shape: LlamaShape, vision: int) -> dict[str, object]:
    """config.json as transformers 4.28 to 4.31 wrote it for these classes."""
    sizes = asdict(shape)
    common: dict[str, object] = {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu",
        "vocab_size": sizes["vocab"], "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"], "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"], "num_key_value_heads": sizes["kv_heads"],
        "rms_norm_eps": sizes["eps"], "max_position_embeddings": sizes["positions"],
        "initializer_range": 0.02, "model_type": "llava", "rope_scaling": None,
        "pretraining_tp": 1, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_cache": False, "freeze_mm_mlp_adapter": True, "tune_mm_mlp_adapter": False,
        "mm_hidden_size": vision, "mm_use_im_start_end": True, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "out_dim": 256, "train_mask_decoder": True,
    }  # fmt: skip
    if layout.name == "lisa":
        tower = "openai/clip-vit-large-patch14"
        return common | {
            "architectures": ["LISAForCausalLM"], "mm_use_im_patch_token": True,
            "mm_vision_tower": tower, "vision_tower": tower, "sep_image_conv_front": False,
            "image_grid_pinpoints": None, "image_aspect_ratio": "square",
            "transformers_version": "4.31.0",
        }  # fmt: skip
    tower = "openai/clip-vit-large-patch14-336"
    return common | {
        "architectures": ["GLaMMForCausalLM"], "mm_use_im_patch_token": False,
        "mm_vision_tower": tower, "vision_tower": tower, "vision_module": tower,
        "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "max_length": 4096,
        "bbox_token_idx": 32002, "bop_token_idx": 32005, "eop_token_idx": 32006,
        "select_feature_type": "patch", "num_level_reg_features": 4, "with_region": True,
        "use_mm_proj": True, "pretrain_mm_mlp_adapter": None, "rope_theta": 10000.0,
        "transformers_version": "4.28.0.dev0",
    }  # fmt: skip


_GENERATION = {
    "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "transformers_version": "4.28.0.dev0",
}  # fmt: skip


def _token(content: str) -> dict[str, object]:
    return {
        "content": content, "lstrip": False, "normalized": True, "rstrip": False,
        "single_word": False,
    }  # fmt: skip


_SPECIAL = {
    "bos_token": _token("<s>"), "eos_token": _token("</s>"), "unk_token": _token("<unk>"),
    "pad_token": "<unk>",
}  # fmt: skip
_TOKENIZER: dict[str, object] = {
    name: {"__type": "AddedToken", **_token(content)}
    for name, content in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
} | {
    "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
    "legacy": True, "model_max_length": 1536, "pad_token": None, "padding_side": "right",
    "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
}  # fmt: skip


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
