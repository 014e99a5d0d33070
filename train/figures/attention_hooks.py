"""Cross-attention weights of SSA or Q-Former, recomputed by forward hooks.

The product's kernels never build these matrices. Hooks note what went into each cross-attention,
and the weights are computed from it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...model.blocks import Attention
from ...model.projectors import Projector
from ...model.projectors.fusion import Fusion
from ...model.projectors.qformer import BertAttention, QFormer
from ...model.projectors.svp import SVP


def looks(projector: Projector) -> str:
    """Kind of attention queries: "superpixels", "queries", or "" if there are none."""
    if isinstance(projector, Fusion):
        projector = next(part for part in projector.parts if isinstance(part, SVP))
    if isinstance(projector, QFormer):
        return "queries"
    return "superpixels" if isinstance(projector, SVP) and projector.ssa is not None else ""


@contextmanager
def recorded(projector: Projector) -> Iterator[list[Tensor]]:
    """While open, every cross-attention to patches appends its weights (B,heads,Q,P), block by block.

    Of a fusion the first source's. The list stays empty where `looks` says "".
    """
    found: list[Tensor] = []

    def ssa(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        assert isinstance(module, Attention)
        query, key, _, allowed = inputs
        scores = _scores(module.by_head(query), module.by_head(key))
        if allowed is not None:
            bias = allowed.log() if allowed.dtype == torch.bool else allowed
            scores = scores + bias
        found.append(scores.softmax(-1))

    def bert(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        assert isinstance(module, BertAttention)
        parts = (module.query(inputs[0]), module.key(inputs[1]))
        q, k = (x.view(*x.shape[:2], module.heads, -1).transpose(1, 2) for x in parts)
        found.append(_scores(q, k).softmax(-1))

    hooks = [
        module.register_forward_hook(ssa if isinstance(module, Attention) else bert)
        for module in _crossings(projector)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _crossings(projector: Projector) -> list[nn.Module]:
    if isinstance(projector, Fusion):
        projector = next(part for part in projector.parts if isinstance(part, SVP))
    if isinstance(projector, SVP) and projector.ssa is not None:
        return [layer.multihead_attn for layer in projector.ssa.cross]  # type: ignore[misc]
    if isinstance(projector, QFormer):
        return [layer.cross_attn for layer in projector.layers if layer.crosses]  # type: ignore[misc]
    return []


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.matmul(q.float(), k.float().mT).div(math.sqrt(q.shape[-1]))
