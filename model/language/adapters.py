"""LoRA adapters around the linears of a language model, by peft."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...pipeline.display import show
from ...pipeline.errors import ConfigError, MissingPackageError
from . import LINEARS
from .families import family_of

# The default of a recipe's `model.lora.targets` too.
ALL = "all-linear"


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters: rank 32, alpha 16 on all seven linears is the only reading near 430M.

    targets  linears by LLaMA's names, which a family translates, or by the model's own; or `ALL`
    """

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    targets: Sequence[str] = LINEARS


def add_lora(lm: Any, lora: Lora) -> None:
    """Put adapters around the linears named in `lora.targets`, in place, by peft.

    The model keeps its class; a linear becomes `<name>.base_layer` with `<name>.lora_{A,B}.default`.
    Raises ConfigError for a target that no linear of the layers has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingPackageError("peft", "train", "LoRA") from None

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets_in(lm, lora.targets),
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


def targets_in(lm: Any, targets: Sequence[str]) -> list[str]:
    """Targets under the names that `lm` has for them, each once; ConfigError if it has none.

    `ALL` is every linear of the layers, as in peft; so are LLaMA's seven in a family that says nothing
    of its linears and names them otherwise.
    """
    linears = family_of(lm).linears
    own = list(dict.fromkeys(linears.get(target, target) for target in targets))
    names = [name for name, part in lm.named_modules() if isinstance(part, nn.Linear)]
    found = sorted({name.rsplit(".", 1)[-1] for name in names if ".layers." in name})
    unsaid = not linears and tuple(targets) == LINEARS and not set(LINEARS) <= set(found)
    if found and (tuple(targets) == (ALL,) or unsaid):
        return found
    for target in own:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise ConfigError(
                f"model.lora.targets: no linear of this {lm.config.model_type} is named "
                f"{show(target)}; it has {', '.join(found)}"
            )
    return own
