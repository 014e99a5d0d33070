"""LLaMA's decoder layer with LoRA in few operators, in place of transformers' and peft's.

The modules, their parameters and all names stay those of transformers and peft, so that adapters are
saved, merged and exported as ever; only what calling a layer does is replaced. A layer that is not
exactly what is computed here (trained or biased weights, other adapters, hooks on inner modules, as
DeepSpeed's ZeRO 3 puts them) is called as transformers wrote it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama import modeling_llama

from ..language.attention import CACHE
from .lora import Adapters, cast_together, products

# Linears that read the same input.
GROUPS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)
ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters of linears that share an input.

    weights   (out, in), frozen
    a, b      (r, in) and (out, r) of their adapters, None of a linear without one
    settings  alpha / r, dropout, and whether it is on; None without any adapter
    """

    weights: list[Tensor]
    a: list[Tensor | None]
    b: list[Tensor | None]
    settings: tuple[float, float, bool] | None


@dataclass(frozen=True, slots=True)
class Linears:
    """A group's weights and its adapters in the same dtype."""

    weights: list[Tensor]
    adapters: Adapters | None


class LlamaDecoderLayer(modeling_llama.LlamaDecoderLayer):  # type: ignore[no-untyped-call]
    """A layer of transformers that is called otherwise.

    It keeps the name of its base, by which FSDP finds what it gathers together.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        linears: Sequence[Sequence[Linears]] | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B,L,D) -> (B,L,D), as transformers' with peft's adapters but for rounding and the draw of
        dropout, one mask for all linears that share an input.

        past_key_values, cache  one argument: transformers renamed it in 5.24
        linears  of all layers, from `prepared`; None: this layer prepares its own
        """
        attention = self.self_attn
        cache = past_key_values if cache is None else cache
        own = linears[attention.layer_idx] if linears is not None else _own(self)
        if own is None or not _in_dtype(hidden_states, own[0].weights[0].dtype):
            found: Tensor = super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **{CACHE: cache},
                **kwargs,
            )
            return found
        # All tensors have the dtype of the arithmetic; autocast would make the norms float32.
        with torch.autocast(hidden_states.device.type, enabled=False):
            x = hidden_states
            norm = self.input_layernorm
            q, k, v = products(
                (x, norm.weight),
                own[0].weights,
                own[0].adapters,
                before=partial(rms_norm, eps=norm.variance_epsilon),
            )
            assert position_embeddings is not None
            heads = (*x.shape[:-1], -1, attention.head_dim)
            q, k = (rotary(y.view(heads), *position_embeddings).transpose(1, 2) for y in (q, k))
            v = v.view(heads).transpose(1, 2)
            if cache is not None:
                k, v = cache.update(k, v, attention.layer_idx)
            seen, _ = sdpa_attention_forward(
                attention, q, k, v, attention_mask, scaling=attention.scaling, **kwargs
            )
            seen = seen.reshape(*x.shape[:-1], -1)
            (x,) = products((seen,), own[1].weights, own[1].adapters, residual=x)

            norm = self.post_attention_layernorm
            gate, up = products(
                (x, norm.weight),
                own[2].weights,
                own[2].adapters,
                before=partial(rms_norm, eps=norm.variance_epsilon),
            )
            (x,) = products((gate, up), own[3].weights, own[3].adapters, before=swiglu, residual=x)
        return x


def use_llama_layers(lm: Any) -> None:
    """Have the layers of a LLaMA called as `LlamaDecoderLayer` here, in place; other models are left."""
    for layer in lm.modules():
        if type(layer) is modeling_llama.LlamaDecoderLayer:
            layer.__class__ = LlamaDecoderLayer


def prepared(lm: Any) -> list[list[Linears]] | None:
    """The linears of all layers; their adapters have the dtype of the arithmetic, by one operator.

    To be given to `lm.model(linears=)`. None where layers have to prepare their own: they are split
    over processes and whole only while they run, or called as transformers wrote them.
    """
    found = []
    for layer in lm.model.layers:
        groups = groups_of(layer)
        if groups is None or isinstance(groups[0].weights[0], DTensor):
            return None
        found.append(groups)
    return _prepared(found)


def _own(layer: LlamaDecoderLayer) -> list[Linears] | None:
    groups = groups_of(layer)
    return None if groups is None else _prepared([groups])[0]


def _prepared(layers: Sequence[Sequence[Group]]) -> list[list[Linears]]:
    matrices = [
        ([a for a in group.a if a is not None], [b for b in group.b if b is not None])
        for groups in layers
        for group in groups
        if group.settings
    ]
    cast = iter(cast_together(matrices, layers[0][0].weights[0].dtype) if matrices else ())
    return [[_linears(group, cast) for group in groups] for groups in layers]


def _linears(group: Group, cast: Iterator[tuple[Tensor, tuple[Tensor, ...]]]) -> Linears:
    if group.settings is None:
        return Linears(group.weights, None)
    scale, dropout, on = group.settings
    a, found = next(cast)
    rest = iter(found)
    b = tuple(None if own is None else next(rest) for own in group.b)
    return Linears(group.weights, Adapters(a, b, scale, dropout if on else 0.0))


def groups_of(layer: Any) -> list[Group] | None:
    """The linears of a layer by `GROUPS`; None if calling it is more than what is computed here."""
    if not isinstance(layer, LlamaDecoderLayer):
        return None
    attention, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    if (
        not all(map(_unhooked, (attention, mlp, *norms)))
        or type(attention) is not modeling_llama.LlamaAttention
        or type(mlp) is not modeling_llama.LlamaMLP
        or any(type(norm) is not modeling_llama.LlamaRMSNorm for norm in norms)
        or any(norm.weight.requires_grad for norm in norms)
        or attention.config._attn_implementation != "sdpa"
        or attention.attention_dropout
        or attention.config.hidden_act != "silu"
    ):
        return None
    groups: list[Group] = []
    for part, names in GROUPS:
        group = _group(layer._modules[part], names)
        if group is None:
            return None
        groups.append(group)
    weights = [w for group in groups for w in group.weights] + [norm.weight for norm in norms]
    return groups if len({w.dtype for w in weights}) == 1 else None


def _group(owner: Any, names: Sequence[str]) -> Group | None:
    """None if one of the linears is trained, biased or adapted otherwise than by one plain LoRA."""
    weights, downs, ups, settings = [], [], [], set()
    for name in names:
        # Looked up where modules keep them: `getattr` of a module takes 20 times longer.
        module = owner._modules[name]
        parts = module._modules
        base = parts.get("base_layer", module)
        if type(base) is not nn.Linear or not _unhooked(module) or not _unhooked(base):
            return None
        weight: Any = base._parameters["weight"]
        if weight.requires_grad or base._parameters["bias"] is not None:
            return None
        a = b = None
        if base is not module:
            if not _plain(module):
                return None
            down, up, drop = (
                parts[kind]._modules[ADAPTER] for kind in ("lora_A", "lora_B", "lora_dropout")
            )
            if type(drop) not in (nn.Dropout, nn.Identity) or not all(map(_unhooked, (down, up))):
                return None
            a, b = down._parameters["weight"], up._parameters["weight"]
            settings.add((module.scaling[ADAPTER], getattr(drop, "p", 0.0), drop.training))
        weights.append(weight)
        downs.append(a)
        ups.append(b)
    return Group(weights, downs, ups, next(iter(settings), None)) if len(settings) < 2 else None


def _plain(module: Any) -> bool:
    """Whether one LoRA is active and not merged, and nothing else of peft's."""
    return (
        "lora_A" in module._modules
        and module.active_adapters == [ADAPTER]
        and not (module.merged or module.disable_adapters or module.lora_variant)
        and not module.fan_in_fan_out
        and not module.lora_bias[ADAPTER]
    )


def _unhooked(module: nn.Module) -> bool:
    """Whether calling the module is calling its class."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in module.__dict__


def _in_dtype(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `x` has the weights' dtype, and autocast, if it is on, would not change it."""
    kind = x.device.type
    return x.dtype == dtype and (
        not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) == dtype
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """LlamaRMSNorm: one operator on CUDA, where it has its own backward pass."""
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU(gate) * up."""
    return F.silu(gate) * up


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (B,L,H,d) by (1 or B,L,d): `apply_rotary_pos_emb` of transformers."""
    found: Tensor = _Rotary.apply(x, cos[:, :, None], sin[:, :, None])
    return found


class _Rotary(torch.autograd.Function):
    """(x1 cos - x2 sin, x2 cos + x1 sin) of the halves of the last axis; keeps cos and sin only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        (first, second), (sin1, sin2) = x.chunk(2, -1), sin.chunk(2, -1)
        out = x * cos
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(second, sin1, value=-1)
        out2.addcmul_(first, sin2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (first, second), (sin1, sin2) = grad.chunk(2, -1), sin.chunk(2, -1)
        out = grad * cos
        out1, out2 = out.chunk(2, -1)
        out1.addcmul_(second, sin2)
        out2.addcmul_(first, sin1, value=-1)
        return out, None, None
