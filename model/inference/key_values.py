"""Keys and values that a language model has computed, each at the slot of its position.

The buffers have a fixed size: every step of decoding has the shapes of every other. Slots past the
end of a sequence hold zeros, padding or ids of a draft that was not said. No query sees a slot past
its own position, and whatever comes at that position takes its slot first.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..language.attention import CACHE, masks_for, no_cache


class KeyValues:
    """Buffers for `rows` sequences of at most `size` positions.

    keys, values  (layers,rows,heads,size,width) in the dtype of the language model
    skipped       by how much positions are larger than slots from the first read on
    """

    skipped: int = 0

    def __init__(self, lm: Any, rows: int, size: int) -> None:
        attention = lm.model.layers[0].self_attn
        heads = lm.config.num_key_value_heads
        shape = len(lm.model.layers), rows, heads, size, attention.head_dim
        self.keys: Tensor = lm.model.norm.weight.new_zeros(shape)
        self.values = torch.zeros_like(self.keys)

    def read(
        self,
        lm: Any,
        embeds: Tensor,
        position: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B,Q,D) of `embeds` (B,Q,D), whose keys and values are kept.

        position  (B,Q) int64 slots, or (1,Q) for all alike; what was kept below is seen. None: the
                  sequences start here, and causal attention needs no mask
        first     (B,Q) positions of a start where they are not 0, 1, 2, ...
        """
        allowed: Any = None
        if position is not None:
            allowed = masks_for(lm.config, position, self.keys.shape[3])
        cache = no_cache(lm)
        cache.update = partial(self._keep, position)
        out = lm.model(
            inputs_embeds=embeds, attention_mask=allowed,
            position_ids=first if position is None else position + self.skipped,
            use_cache=False, **{CACHE: cache},
        )  # fmt: skip
        states: Tensor = out.last_hidden_state
        return states

    def start_with(self, read: "KeyValues") -> None:
        """Every sequence starts as the one of `read`."""
        self.skipped = read.skipped
        for mine, others in ((self.keys, read.keys), (self.values, read.values)):
            mine[..., : others.shape[3], :] = others

    def _keep(
        self, position: Tensor | None, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stands for `Cache.update` of transformers: what the layer's queries attend to."""
        kept = self.keys[layer], self.values[layer]
        for buffer, new in zip(kept, (keys, values), strict=True):
            if position is None:
                buffer[:, :, : new.shape[2]] = new
            else:
                index = position[:, None, :, None].expand_as(new)
                buffer.scatter_(2, index, new.to(buffer.dtype))
        return kept if position is not None else (keys, values)
