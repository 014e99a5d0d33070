"""Arithmetic of answers.

What trains is float32 and is computed in bfloat16 by autocast, which casts weights and inputs at
every use. A model that only answers has its weights cast once.
"""

import torch

from ..ris import RisModel


@torch.no_grad()
def cast_weights(model: RisModel) -> None:
    """Put all weights into the dtype of the language model's layers, in place.

    Buffers stay: positions and rotary frequencies are float32. So do int8 weights.
    """
    dtype = model.lm.model.norm.weight.dtype
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def input_dtype(model: RisModel) -> torch.dtype:
    """Dtype for the floating-point inputs of a batch: float32 where anything may train."""
    return next(model.projector.parameters()).dtype


def arithmetic(model: RisModel) -> torch.autocast:
    """bfloat16 by autocast where some weights, not all, are kept in it."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    device = next(model.projector.parameters()).device.type
    return torch.autocast(
        device, torch.bfloat16, enabled=torch.bfloat16 in kinds and len(kinds) > 1
    )
