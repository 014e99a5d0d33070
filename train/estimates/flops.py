"""FLOPs of a language model by formula, 2 per multiply-add.

Per sequence of T tokens, with P numbers in the layers' matrices, r in the adapters, H layers whose
attention has width D (heads times their width; the model's own in LLaMA):

    forward    2 P T + 2 r T + 4 H D T^2
    backward   2 P T + 4 r T + 8 H D T^2      inputs only for the frozen P; inputs and weights for r

The head, 2 V times the model's width per supervised token and three times that in training, is added. The T^2 term counts
the whole square, as `torch.utils.flop_counter` does; causal kernels skip half of it. These are model
FLOPs: what checkpointing or flash attention computes twice counts once.
"""

from collections.abc import Sequence
from typing import Any

from .gpus import GPUS

FORMULA = (
    "LLM forward 2 P T + 2 r T + 4 H D T^2, backward 2 P T + 4 r T + 8 H D T^2 "
    "(P frozen, r adapters, T tokens, H layers of width D), head 2 V D (x3 in training) per "
    "supervised token"
)


def llm_flops(
    lm: Any,
    tokens: Sequence[int],
    head: int,
    *,
    training: bool,
    counted: tuple[int, int] | None = None,
    whole: bool = False,
) -> float:
    """FLOPs of sequences of `tokens` lengths, `head` states reaching the vocabulary.

    training  with the backward pass of a model whose layers are frozen up to their adapters, and
              whose head trains
    counted   what `matrices` says of `lm`, if it was asked before
    whole     the layers' own weights train, too: their gradients are 2 P T more
    """
    frozen, adapters = counted or matrices(lm)
    config: Any = lm.config
    square = 4 * config.num_hidden_layers * attention_width(lm) * sum(t * t for t in tokens)
    words = 2 * head * config.vocab_size * config.hidden_size
    forward = 2 * (frozen + adapters) * sum(tokens) + square + words
    if not training:
        return float(forward)
    backward = ((4 if whole else 2) * frozen + 4 * adapters) * sum(tokens)
    return float(forward + backward + 2 * square + 2 * words)


def attention_width(lm: Any) -> int:
    """Numbers that the heads of one layer attend with, together."""
    width: int = lm.config.num_attention_heads * lm.model.layers[0].self_attn.head_dim
    return width


def matrices(lm: Any) -> tuple[int, int]:
    """Numbers in the layers' own matrices, and in their adapters."""
    model: Any = lm.model
    sizes = [(name, p.numel()) for name, p in model.layers.named_parameters() if p.ndim == 2]
    adapters = sum(n for name, n in sizes if ".lora_" in name)
    return sum(n for _, n in sizes) - adapters, adapters


def layers_train(lm: Any) -> bool:
    """Whether matrices of the layers train, not adapters alone."""
    named = lm.model.layers.named_parameters()
    return any(p.requires_grad and p.ndim == 2 and ".lora_" not in name for name, p in named)


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of a GPU in bfloat16; None for one that is not listed."""
    found = (gpu.peak for gpu in GPUS.values() if gpu.name.split(" (")[0] in device_name)
    return next(found, None)
