"""One family of language models: all in which it differs from another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Fields = Mapping[str, Any]


def _as_written(fields: Fields) -> Fields:
    return fields


def _plain(config: Any, logits: Tensor) -> Tensor:
    return logits


def unscaled(config: Any) -> float:
    """The factor of a family whose embedding layer only looks rows up."""
    return 1.0


@dataclass(frozen=True, slots=True)
class Language:
    """A family: its architecture is transformers' own class of `model_type`, never remote code.

    model_type    of the configuration that transformers builds the causal language model from
    title         the models of it that are in use
    text          config.json -> fields of the language model's configuration; a composite
                  checkpoint (text and vision) holds them in a part of its own
    prefixes      (in the file, in the model) of the language model's tensors, first match first;
                  of composite checkpoints
    other         prefixes of tensors that belong to other parts of a composite checkpoint
    unread        keys of config.json that name code for `trust_remote_code`, which is never read
    template      options of the tokenizer's `apply_chat_template`
    linears       the linear that does the work of LLaMA's, where it is named otherwise: a recipe's
                  LoRA targets are translated by it
    visual_scale  of the configuration, by which visual tokens are multiplied: what an embedding
                  layer does to its rows
    logits        configuration and the head's output -> logits: a family's own scale or soft cap
    access        what a user must do before the hub hands the weights out, "" for nothing
    """

    model_type: str
    title: str
    text: Callable[[Fields], Fields] = _as_written
    prefixes: tuple[tuple[str, str], ...] = ()
    other: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()
    template: Mapping[str, object] = field(default_factory=dict)
    linears: Mapping[str, str] = field(default_factory=dict)
    visual_scale: Callable[[Any], float] = unscaled
    logits: Callable[[Any, Tensor], Tensor] = _plain
    access: str = ""
