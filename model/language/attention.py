"""Caches and masks for a pass through a language model's layers."""

from importlib.metadata import version
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

# What transformers calls the cache that a model and its layers are given: renamed in 5.24.
CACHE = "cache" if Version(version("transformers")) >= Version("5.24") else "past_key_values"


def no_cache(lm: Any) -> Any:
    """A cache for `lm.model` that keeps nothing: keys and values are those of the call itself.

    Without any cache transformers asks the device whether several texts are packed in a row, which
    waits for it. None where layers are computed again in the backward pass: they take no cache.
    """
    if lm.training and any(getattr(x, "gradient_checkpointing", False) for x in lm.model.layers):
        return None
    from transformers import DynamicCache

    nothing: Any = DynamicCache()
    nothing.update = _as_given
    return nothing


def _as_given(keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return keys, values


def masks_for(config: Any, position: Tensor, slots: int) -> Tensor | dict[str, Tensor]:
    """Masks of the `slots` kept positions that queries at `position` (B,Q) see: bool (B,1,Q,slots).

    By kind of layer where a family has several, as transformers takes them; a window is the number
    of positions that a layer sees, its own among them.
    """
    kept = torch.arange(slots, device=position.device)
    causal: Tensor = (kept <= position[..., None])[:, None]
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or (kinds and "sliding_attention" not in kinds):
        return causal if not kinds else dict.fromkeys(kinds, causal)
    near: Tensor = causal & (kept > position[..., None] - window)[:, None]
    if not kinds:
        return near
    return {kind: near if kind == "sliding_attention" else causal for kind in kinds}
