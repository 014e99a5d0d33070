"""Activation memory for the backward pass: counted for any module, by formula for language models.

Formula per layer and position, d width, a that of all heads together (d in LLaMA), f MLP width, h heads, k of
them for keys, c bytes of the arithmetic. Frozen layers, which `model.llama.decoder_layer` calls, keep what enters their two halves, q, k,
v, attention's output, gate and up, c (2d + 2a + 2ak/h + 2f), and 4h for the row sums; linears of input i
with adapters of rank r keep c r each and i together (the dropout mask).

Layers as transformers calls them, because their own weights train or the family has no others, keep n (the
float32 inputs of all RMSNorms, 8d in LLaMA, and a fused product of q, k and v beside its turned parts), 3cf (SiLU(gate), too) and the linears' inputs, c (2d + f) as q, k, v share theirs and so do
gate and up, and the norms' weights two copies of what they scale; an adapted linear keeps c i, i and
c r. `tests/train/estimates/test_activations.py` compares both with what is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...model.batch import Batch
from ...model.llama.decoder_layer import Group, groups_of
from ...pipeline.display import counted
from .flops import attention_width

Result = TypeVar("Result")


def saved_bytes(run: Callable[[], Result], module: nn.Module, batch: Batch) -> tuple[Result, int]:
    """The result of `run()` and the bytes autograd kept for its backward pass.

    Parameters and buffers of `module` and tensors of `batch` are there anyway and do not count.
    """
    known = {*map(_storage, module.state_dict().values())}
    known |= {_storage(x) for x in tensors_of(batch)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # keeps the graph, hence the storages and their addresses, alive
    return result, sum(kept.values())


def tensors_of(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch that goes to the device, and of its layout if that was made."""
    found: list[Tensor] = []

    def see(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.map(see)
    return found


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """Sizes that decide what a language model keeps.

    attention    width of all heads together
    inner_copies bytes per position that norms and a fused q, k, v of one layer keep, as transformers
                 calls it
    c, residual  bytes per number of the arithmetic and of the hidden states between layers
    adapted      bytes per position that the LoRA of all layers keeps
    own          the layers are called by `model.llama.decoder_layer`; else by transformers
    trained      the layers' own weights train
    """

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    attention: int
    inner_copies: int
    vocab: int
    c: int
    residual: int
    adapted: int
    own: bool = False
    trained: bool = False

    @classmethod
    def of(cls, lm: Any, autocast: torch.dtype | None) -> "LanguageModel":
        """Read off a language model, with or without adapters."""
        config = lm.config
        c = (autocast or next(lm.model.layers.parameters()).dtype).itemsize
        groups = [groups_of(layer) for layer in lm.model.layers]
        own = all(found and found[0].weights[0].itemsize == c for found in groups)
        if own:
            adapted = sum(_shared(group, c) for found in groups for group in found or ())
        else:
            adapted = sum(
                _adapter(module, c) for module in lm.modules() if hasattr(module, "lora_A")
            )
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            attention_width(lm),
            _inner_copies(lm, c),
            config.vocab_size,
            c,
            lm.model.norm.weight.itemsize,
            adapted,
            own,
            any(
                p.requires_grad for n, p in lm.model.layers.named_parameters() if ".lora_" not in n
            ),
        )

    @property
    def layer(self) -> int:
        """Bytes per position that one layer keeps, without its adapters."""
        kv = 2 * self.attention * self.kv_heads // self.heads
        attention = self.c * (2 * self.attention + kv) + 4 * self.heads
        if self.own:
            return attention + 2 * self.c * (self.width + self.inner)
        inputs = self.c * (2 * self.width + self.inner) + 2 * self.residual * self.width
        kept = self.inner_copies + attention + 3 * self.c * self.inner
        return kept + inputs * self.trained

    def kept(self, places: int, checkpointing: bool) -> tuple[int, str]:
        """Bytes kept for `places` positions (images x longest sequence), and the formula."""
        adapters = f" + LoRA {self.adapted // self.layers:,}" if self.adapted else ""
        numbers = "c(2d + 2a + 2ak/h + 2f) + 4h" if self.own else "n + c(2a + 2ak/h) + 4h + 3cf"
        layer = f"({numbers}{adapters})"
        sizes = f"d {self.width}, f {self.inner}, h {self.heads}, k {self.kv_heads}, c {self.c}"
        if self.attention != self.width:
            sizes += f", a {self.attention}"
        if not self.own:
            sizes += f", n {self.inner_copies}"
        whole = self.layers * self.layer + self.adapted
        last = 4 * self.width  # the final norm
        if not checkpointing:
            return places * (whole + last), f"{places} x {self.layers} x {layer}; {sizes}"
        # Inputs of all layers, and everything inside the one that is being recomputed.
        inputs = self.layers * self.residual * self.width
        total = places * (inputs + whole // self.layers + last)
        return total, f"{places} x ({self.layers} x {self.residual}d + {layer}); {sizes}"

    def head(self, answers: int) -> tuple[int, str]:
        """Peak bytes of the cross-entropy over `answers` supervised positions.

        Logits in the arithmetic's dtype, in float32, their log-softmax and its gradient.
        """
        each = self.c + 12
        return (
            answers * self.vocab * each,
            f"{counted(answers, 'answer token')} x {self.vocab:,} x {each}",
        )


def _inner_copies(lm: Any, c: int) -> int:
    """Bytes per position of what the norms of a layer read, in float32, some of them each head alone;
    and of q and k before they are turned, where v is a view of the same storage.
    """
    config, layer = lm.config, lm.model.layers[0]
    heads = {"q_norm": config.num_attention_heads, "k_norm": config.num_key_value_heads}
    found = (n.rsplit(".", 1)[0] for n, p in layer.named_parameters() if p.ndim == 1)
    names = (name for name in found if name.endswith("norm"))
    each = (layer.get_submodule(n).weight.numel() * heads.get(n[-6:], 1) for n in names)
    fused = hasattr(layer.self_attn, "qkv_proj")
    turned = sum(heads.values()) * layer.self_attn.head_dim
    copies: int = 4 * sum(each) + c * turned * fused
    return copies


def _shared(group: Group, c: int) -> int:
    """Bytes per position that the adapters of linears with one input keep: mask, small products."""
    if group.settings is None:
        return 0
    _, dropout, _ = group.settings
    matrices = [a for a in group.a if a is not None]
    return matrices[0].shape[1] * bool(dropout) + sum(map(len, matrices)) * c


def _adapter(module: Any, c: int) -> int:
    """Bytes per position that one LoRA linear of peft's keeps."""
    total = 0
    for name, down in module.lora_A.items():
        dropped = isinstance(module.lora_dropout[name], nn.Dropout)
        total += down.in_features * (c + dropped) + down.out_features * c
    return total


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
