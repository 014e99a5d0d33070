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


@torch.no_grad()
def copy_word(lm: Any, source: int, token: int) -> None:
    """Have a row for id `token`, a copy of that of id `source`, in embedding and head, in place."""
    if lm.config.vocab_size <= token:
        with torch.random.fork_rng(devices=[]):  # transformers draws values, to be written over
            lm.resize_token_embeddings(token + 1, mean_resizing=False)
    for side in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        side.weight[token] = side.weight[source]
