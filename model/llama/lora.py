"""Products with frozen weights and their LoRA adapters, in few operators and without casts.

Linears that read the same input are computed together, x W_i^T + (alpha / r) drop(x) A_i^T B_i^T: one
dropout mask, one product with all A_i below each other, and no float32 copy of the input. Weights are
frozen, so that the backward pass needs x for the gradient of A alone, and it computes x again.

peft's `lora.Linear.forward` is the same function, but draws a mask for each linear.

Sums are written `addmm(out=)`, which is `addmm_`, because PyTorch counts the operations of that name only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Adapters:
    """LoRA of linears that share an input, in the dtype of their weights.

    a        (k r, in), of the k linears that have adapters, one below the other
    b        (out, r) of each linear, None of one without an adapter
    scale    alpha / r
    dropout  share of the input that A does not see
    """

    a: Tensor
    b: tuple[Tensor | None, ...]
    scale: float
    dropout: float


def products(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    adapters: Adapters | None = None,
    *,
    before: Callable[..., Tensor] | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """(..., out) for each weight (out, in), of x (..., in); all tensors have one dtype.

    before    x = before(*inputs), computed again in the backward pass; None: x is the one input
    residual  (..., out), added; then there is one weight

    There is no gradient for `weights`.
    """
    a: Tensor | None = None
    b: tuple[Tensor | None, ...] = (None,) * len(weights)
    scale, dropout = 1.0, 0.0
    if adapters is not None:
        a, b, scale, dropout = adapters.a, adapters.b, adapters.scale, adapters.dropout
    found: tuple[Tensor, ...] = _Products.apply(
        before, len(inputs), scale, dropout, residual, a, *inputs, *weights, *b
    )
    return found


class _Products(torch.autograd.Function):
    """See `products`. Kept: inputs, the dropout mask (bool), and (n, k r) of the small product."""

    @staticmethod
    def forward(
        ctx: Any,
        before: Callable[..., Tensor] | None,
        count: int,
        scale: float,
        dropout: float,
        residual: Tensor | None,
        a: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs, weights, b = _parts(tensors, count)
        x = before(*inputs) if before is not None else inputs[0]
        shape, x = x.shape[:-1], x.flatten(0, -2)
        if residual is None:
            outs = [x @ weight.t() for weight in weights]
        else:
            (weight,) = weights
            outs = [torch.addmm(residual.flatten(0, -2), x, weight.t())]
        mask = small = None
        if a is not None:
            seen, mask = torch.native_dropout(x, dropout, True) if dropout else (x, None)
            small = x.new_empty(len(x), len(a))
            torch.addmm(small, seen, a.t(), beta=0, alpha=scale, out=small)
            for i, up, part in _adapted(b, small):
                torch.addmm(outs[i], part, up.t(), out=outs[i])
        ctx.save_for_backward(a, mask, small, *tensors)
        ctx.settings = before, count, scale, dropout, residual is not None
        return tuple(out.view(*shape, -1) for out in outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        before, count, scale, dropout, added = ctx.settings
        a, mask, small, *tensors = ctx.saved_tensors
        inputs, weights, b = _parts(tensors, count)
        needed = ctx.needs_input_grad[6 : 6 + count]
        flat = [grad.flatten(0, -2) for grad in grads]

        # Through the frozen weights, summed in the products themselves.
        dx = flat[0] @ weights[0]
        for grad, weight in zip(flat[1:], weights[1:], strict=True):
            torch.addmm(dx, grad, weight, out=dx)

        # A forward pass within autocast would give another dtype than the first one did.
        with torch.enable_grad(), torch.autocast(dx.device.type, enabled=False):
            leaves = [
                x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)
            ]
            x = before(*leaves) if before is not None else leaves[0]

        da: Tensor | None = None
        db: list[Tensor | None] = [None] * len(b)
        if a is not None:
            dsmall = torch.empty_like(small)
            for (i, up, part), (_, _, dpart) in zip(
                _adapted(b, small), _adapted(b, dsmall), strict=True
            ):
                torch.addmm(dpart, flat[i], up, beta=0, alpha=scale, out=dpart)
                db[i] = flat[i].t() @ part
            da = dsmall.t() @ _dropped(x.detach().flatten(0, -2), mask, dropout)
            dx.add_(_dropped(dsmall @ a, mask, dropout))

        dx = dx.view(x.shape)
        dinputs: list[Tensor | None] = [None] * count
        if before is None:
            dinputs = [dx]
        elif any(needed):
            wanted = [k for k in range(count) if needed[k]]
            for k, grad in zip(
                wanted, torch.autograd.grad(x, [leaves[k] for k in wanted], dx), strict=True
            ):
                dinputs[k] = grad
        head = (None, None, None, None, grads[0] if added else None, da)
        return (*head, *dinputs, *([None] * len(weights)), *db)


def _parts(
    tensors: Sequence[Any], count: int
) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None]]:
    """Inputs, weights, B matrices; of the last two there are equally many."""
    end = count + (len(tensors) - count) // 2
    return tensors[:count], tensors[count:end], tensors[end:]


def _adapted(b: Sequence[Tensor | None], small: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index, B (out, r) and columns (n, r) of `small` for each linear that has an adapter."""
    start = 0
    for i, up in enumerate(b):
        if up is not None:
            end = start + up.shape[1]
            yield i, up, small[:, start:end]
            start = end


def _dropped(x: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`x` as dropout with this mask leaves it; its own derivative."""
    if mask is None:
        return x
    found: Tensor = torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - dropout))
    return found


def cast_together(
    groups: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]], dtype: torch.dtype
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """All A (r, in) of each group below each other and its B (out, r), as `dtype`, in one operator.

    So is the cast of their gradients back to the parameters' dtype.
    """
    groups = list(groups)
    sizes = [[len(down) for down in downs] for downs, _ in groups]
    flat = _Cast.apply(dtype, sizes, *(p for downs, ups in groups for p in (*downs, *ups)))
    rest = iter(flat)
    return [(next(rest), tuple(next(rest) for _ in size)) for size in sizes]


class _Cast(torch.autograd.Function):
    """See `cast_together`."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, sizes: list[list[int]], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.sizes, ctx.like = sizes, [(p.shape, p.dtype) for p in parameters]
        made, rest = [], iter(parameters)
        for size in sizes:
            downs, ups = ([next(rest) for _ in size] for _ in range(2))
            made.append(downs[0].new_empty(sum(size), downs[0].shape[1], dtype=dtype))
            made += [torch.empty_like(up, dtype=dtype) for up in ups]
        torch._foreach_copy_(_slices(made, sizes), list(parameters))
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = [grads[0].new_empty(shape, dtype=dtype) for shape, dtype in ctx.like]
        torch._foreach_copy_(found, _slices(grads, ctx.sizes))
        return (None, None, *found)


def _slices(stacks: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Views in the order of the parameters: A's rows of each linear, then the B."""
    found: list[Tensor] = []
    rest = iter(stacks)
    for size in sizes:
        found += torch.split(next(rest), list(size))
        found += [next(rest) for _ in size]
    return found
