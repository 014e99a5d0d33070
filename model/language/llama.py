"""LLaMA: also every model that was published in its layout, SmolLM2 among them."""

from .adapter import Language

LLAMA = Language("llama", "LLaMA 2, Vicuna, Llama 3.x, SmolLM2")
