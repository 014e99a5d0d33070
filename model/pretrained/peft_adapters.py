"""LoRA in an exported model: merged into the weights, or saved in peft's format.

The names in an adapter file are those `PeftModel.save_pretrained` writes, so peft can load it onto
the language model. A tied head is left out: it is the embedding.
"""

from typing import Any

from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..language.load import HEAD
from .config import LoraSpec

PREFIX = "base_model.model."  # peft's wrapper
_ADAPTER = ".default.weight"


def plain_state(lm: nn.Module, *, merge: bool) -> dict[str, Tensor]:
    """The state dict of `lm` under the names it has without adapters; they are merged or left out."""
    state = {n: t for n, t in lm.state_dict().items() if ".lora_" not in n}
    plain = {n.replace(".base_layer.", "."): t for n, t in state.items()}
    if lm.config.tie_word_embeddings:  # type: ignore[union-attr]
        del plain[HEAD]
    if merge:
        for name, module in adapted(lm).items():
            base: Tensor = plain[f"{name}.weight"]
            delta = module.get_delta_weight("default")
            plain[f"{name}.weight"] = (base.float() + delta.float()).to(base.dtype)
    return plain


def adapter_state(lm: nn.Module) -> dict[str, Tensor]:
    """The adapters' matrices under peft's file names."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(lm, save_embedding_layers=False)
    return {PREFIX + name: tensor for name, tensor in found.items()}


def inner_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`adapter_state` back under the names inside the language model."""
    return {
        name.removeprefix(PREFIX).removesuffix(".weight") + _ADAPTER: tensor
        for name, tensor in state.items()
    }


def adapted(lm: nn.Module) -> dict[str, Any]:
    """The linears that have adapters, by name."""
    return {name: module for name, module in lm.named_modules() if hasattr(module, "lora_A")}


def lora_of(lm: nn.Module) -> LoraSpec:
    """LoRA settings of the adapters of `lm`. Raises ConfigError if it has none."""
    linears = adapted(lm)
    if not linears:
        raise ConfigError("adapter=separate: this model has no LoRA; export it merged")
    config: Any = lm.peft_config["default"]  # type: ignore[index]
    return LoraSpec(
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linears)),
    )


def peft_config(spec: LoraSpec) -> dict[str, object]:
    """adapter_config.json as peft reads it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": list(spec.targets),
        "bias": "none",
        "inference_mode": True,
    }
