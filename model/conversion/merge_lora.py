"""Merge the LoRA matrices of a checkpoint into the linear layers they adapt.

W' = W + (alpha / r) B A, in float32, in the dtype of W (peft's own merge; LISA and GLaMM ship the
result as merge_lora_weights_and_save_hf_model.py writes it).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import key_mapping

if TYPE_CHECKING:
    from torch import Tensor


def merge_lora(
    lm: "dict[str, Tensor]", lora: Mapping[str, "Tensor"], alpha: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Replace in `lm` the linears that `lora` adapts; `lora` maps `<linear>.lora_{A,B}` to matrices.

    Returns the faults as (missing, wrong) names. `alpha` is in no checkpoint: both projects use 16.
    """
    missing, wrong = [], []
    for linear in sorted({name.rsplit(".", 1)[0] for name in lora}):
        found = (
            lm.get(f"{linear}.weight"),
            lora.get(f"{linear}.lora_A"),
            lora.get(f"{linear}.lora_B"),
        )
        base, down, up = found
        if base is None or down is None or up is None:
            names = (f"{linear}{end}" for end in (".weight", ".lora_A", ".lora_B"))
            missing += [n for n, tensor in zip(names, found, strict=True) if tensor is None]
        elif not _fit(base, down, up):
            shapes = " and ".join("x".join(map(str, tensor.shape)) for tensor in (down, up))
            wrong.append(f"{linear}: LoRA of {shapes} on {'x'.join(map(str, base.shape))}")
        else:
            change = (alpha / len(down)) * (up.float() @ down.float())
            lm[f"{linear}.weight"] = (base.float() + change).to(base.dtype)
    prefixed = tuple(f"{key_mapping.LORA}: {name}" for name in missing)
    return prefixed, tuple(wrong)


def _fit(base: "Tensor", down: "Tensor", up: "Tensor") -> bool:
    if down.ndim != 2 or up.ndim != 2:
        return False
    same_rank = down.shape[0] == up.shape[1] > 0
    return same_rank and tuple(base.shape) == (up.shape[0], down.shape[1])
