"""Language model with int8 weights, for answers.

Reading the weights is what one answer waits for; int8 halves it. Each output channel has its scale, the
largest magnitude in 127 steps; activations and arithmetic stay as they are. Compiled, the cast is part of the
product. Source: gpt-fast 32971d3, quantize.py `WeightOnlyInt8Linear`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Int8Linear(nn.Module):
    """The linear whose weight is `weight` (out,in) int8 times `scale` (out,), but for rounding."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        exact = linear.weight.detach()
        scale = (exact.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        scale = scale.to(exact.dtype)  # rounded before it divides: no error of the whole channel
        steps = (exact.float() / scale.float()[:, None]).round().clamp(-127, 127)
        self.weight = nn.Parameter(steps.to(torch.int8), requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(...,in) -> (...,out)."""
        out = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)


@torch.no_grad()
def use_int8(lm: Any) -> None:
    """Replace the linears of the layers, in place; adapters, embedding and head stay."""
    for parent in [*lm.model.layers.modules()]:
        for name, child in [*parent.named_children()]:
            if type(child) is nn.Linear and not _adapter(parent):
                setattr(parent, name, Int8Linear(child))


def _adapter(parent: nn.Module) -> bool:
    """Whether the linears below are LoRA's, by the names that peft gives its adapters."""
    return isinstance(parent, nn.ModuleDict)
