"""Causal language model: loading of LLaMA-family models, and LoRA adapters.

Weights come in through the one guarded loader, never through a pickle: a folder in the usual
layout (`config.json` + safetensors or .bin shards) or random values from a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..pipeline.display import show
from ..pipeline.errors import MissingError, MissingPackageError, WeightsError
from ..pipeline.weights.file_checks import read_json
from ..pipeline.weights.key_report import TensorSpec, check_keys, expected_of
from ..pipeline.weights.load import load_state_dict, require_finite
from ..pipeline.weights.model_config import MAX_CONFIG, check_config

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

# The default of a recipe's `model.lora.targets` too.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILY = ("llama",)  # config.model_type; GLaMM and LISA files name their own, of the same layout
ALIASES = {"llava": "llama", "glamm": "llama", "lisa": "llama"}
IGNORED = ("rotary_emb.inv_freq",)  # a constant of older transformers


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters: rank 32, alpha 16 on all seven linears is the only reading near 430M."""

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    targets: Sequence[str] = LINEARS


def random_lm(config: "LlamaConfig", seed: int = 0) -> "LlamaForCausalLM":
    """A model of `config` with transformers' own initial values, float32, in training mode."""
    from transformers import LlamaForCausalLM

    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(config)
    return model


def load_lm(folder: Path, dtype: torch.dtype = torch.float32) -> "LlamaForCausalLM":
    """The model of a local folder, strictly: every tensor has its place, none is missing.

    Where the file has `dtype` already, parameters are the mapped file itself (`weights.fill_module.fill`).

    Raises MissingError (no such folder or config), WeightsError (not LLaMA, wrong tensors).
    """
    from transformers import LlamaForCausalLM

    from ..pipeline.weights.fill_module import fill

    config = read_config(folder)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: LlamaForCausalLM = LlamaForCausalLM(config)
        model.to(dtype)  # type: ignore[arg-type]
    state = {n: t for n, t in load_state_dict(folder).items() if not n.endswith(IGNORED)}
    advice = "give a folder of a LLaMA-family model, as `save_pretrained` writes it"
    wanted = {n: TensorSpec(s.shape, "float32") for n, s in expected_of(model).items()}
    check_keys(state, wanted, any_float=True).require(str(folder), advice)
    require_finite(folder, lambda name: name in state)
    fill(model, state, str(folder), mapped=True, checked=True)
    restore_buffers(model)
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return model


def read_config(folder: Path) -> "LlamaConfig":
    """`config.json` of a model folder. Raises MissingError, WeightsError."""
    from transformers import LlamaConfig

    path = folder / "config.json"
    if not path.is_file():
        raise MissingError(f"{show(str(folder), 200)}: no config.json: not a model folder")
    check_config(folder, {})  # a config.json has run code in transformers before
    raw = read_json(path, MAX_CONFIG)
    kind = raw.pop("model_type", "llama")
    if ALIASES.get(str(kind).lower(), kind) not in FAMILY:
        raise WeightsError(f"{show(str(path), 200)}: model_type {show(kind)}: need a LLaMA family")
    if raw.get("rope_scaling") is None:
        raw.pop("rope_scaling", None)  # published configurations write it out; transformers warns
    return LlamaConfig(**raw)  # type: ignore[arg-type]


def add_lora(lm: "LlamaForCausalLM", lora: Lora) -> None:
    """Put adapters around the linears named in `lora.targets`, in place, by peft.

    The model keeps its class; a linear becomes `<name>.base_layer` with `<name>.lora_{A,B}.default`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingPackageError("peft", "train", "LoRA") from None

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
    )
    wanted = {name: p.requires_grad for name, p in lm.named_parameters()}
    inject_adapter_in_model(config, lm)
    module: Any
    for module in lm.modules():
        if hasattr(module, "lora_A"):
            # Adapters are float32. Autocast has their arithmetic in bfloat16 anyway: peft's cast of
            # every input to float32 before it would only be undone.
            module.cast_input_dtype_enabled = False
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_(wanted.get(name.replace(".base_layer", ""), "lora_" in name))


def restore_buffers(model: Any) -> None:
    """Rotary frequencies are computed, not stored: on the meta device they have no values."""
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config)


def no_cache(lm: Any) -> Any:
    """A cache for `lm.model` that keeps nothing: keys and values are those of the call itself.

    Without any cache transformers asks the device whether several texts are packed in a row, which
    waits for it. None where layers are computed again in the backward pass: they take no cache.
    """
    if lm.training and any(getattr(x, "gradient_checkpointing", False) for x in lm.model.layers):
        return None
    from transformers import DynamicCache

    nothing: Any = DynamicCache()
    nothing.update = _as_given
    return nothing


def _as_given(keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return keys, values
