"""Rows of a language model for tokens that its tokenizer did not have."""

from typing import Any

import torch


@torch.no_grad()
def add_words(lm: Any, first: int, size: int) -> None:
    """Have rows for ids below `size`, of which those from `first` on are new tokens, in place.

    Many matrices have more rows than their tokenizer has ids (Qwen3: 151,936 for 151,669); these are
    taken first. They were never read, so they start as the mean of the known rows, which is what
    transformers' `resize_token_embeddings` gives new ones but for a spread of 1e-9.
    """
    rows = lm.config.vocab_size
    sides = [lm.get_input_embeddings()]
    if not lm.config.tie_word_embeddings:
        sides.append(lm.get_output_embeddings())
    for side in sides if first < rows else ():
        weight = side.weight
        weight[first:size] = weight[:first].mean(0, dtype=torch.float32).to(weight.dtype)
    if rows < size:
        lm.resize_token_embeddings(size, mean_resizing=True)
