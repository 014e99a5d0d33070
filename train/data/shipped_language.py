"""The tiny language models of this package: their folders, words and shapes."""

import importlib.resources
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...model.pretrained.config import language_config
from ...pipeline.weights.reference import NONE, WeightsRef
from .tokenizer import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TINY: Final = "workflows/tiny/lm"  # config.json, tokenizer.json, ris.safetensors
TINY_TEXT: Final = (
    "workflows/tiny/world2/lm"  # text of world 2 alone, in the layout of transformers
)


def shipped_folder(name: str) -> AbstractContextManager[Path]:
    """A folder of this package as files."""
    return importlib.resources.as_file(importlib.resources.files("svp") / name)


def shipped_words(lm: WeightsRef = NONE) -> Vocabulary:
    """The tokenizer of the tiny model, which random language models use too; of `lm: shipped` its own."""
    with shipped_folder(TINY_TEXT if lm.kind == "shipped" else TINY) as folder:
        return load_vocabulary(folder)


def shipped_config() -> "PreTrainedConfig":
    """Of the tiny language model."""
    with shipped_folder(TINY) as folder:
        return language_config(folder)
