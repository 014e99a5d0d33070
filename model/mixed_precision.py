"""Weights of a module in the dtype of autocast, cast once for a whole forward pass.

Autocast itself casts a weight where an operator reads it, and casts inputs and outputs beside it:
about as many small kernels as the operators that compute. Here all weights are cast by one kernel,
their gradients by another, and the module then runs as one of that dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def weights_cast(module: nn.Module, keep: frozenset[str] = frozenset()) -> Iterator[None]:
    """While open, `module` computes in autocast's dtype, with its weights of that dtype.

    keep  names of parameters which stay as they are

    Nothing changes without autocast, nor for weights that are `gathered_by_calls`: autocast casts
    them where an operator reads them.
    """
    kind = next(module.parameters()).device.type
    places = _float32(module, keep) if torch.is_autocast_enabled(kind) else []
    if not places or gathered_by_calls(module):
        yield
        return
    cast = _Cast.apply(torch.get_autocast_dtype(kind), *(weight for _, _, weight in places))
    for (owner, name, _), weight in zip(places, cast, strict=True):
        owner._parameters[name] = weight
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        for owner, name, weight in places:
            owner._parameters[name] = weight


def gathered_by_calls(module: nn.Module) -> bool:
    """Whether weights are whole only while their own module is called: DeepSpeed's ZeRO 3."""
    return any(hasattr(p, "ds_id") for p in module.parameters())


def _float32(module: nn.Module, keep: frozenset[str]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Owner, name and value of each float32 weight whose full name is not in `keep`."""
    return [
        (owner, name, weight)
        for prefix, owner in module.named_modules()
        for name, weight in owner.named_parameters(recurse=False)
        if weight.dtype == torch.float32 and f"{prefix}.{name}".lstrip(".") not in keep
    ]


class _Cast(torch.autograd.Function):
    """All tensors to one dtype by one call; their gradients come back in float32."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # what was not used gets no gradient, not zeros
        return tuple(_to(weights, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(_to([x for x in gradients if x is not None], torch.float32))
        return (None, *(None if x is None else next(found) for x in gradients))


def _to(given: Any, dtype: torch.dtype) -> list[Tensor]:
    found = [torch.empty_like(x, dtype=dtype) for x in given]
    if found:
        torch._foreach_copy_(found, list(given))
    return found
