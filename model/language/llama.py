"""LLaMA: also every model that was published in its layout, SmolLM2 among them."""

from .adapter import Language

LLAMA = Language(
    "llama",
    "LLaMA 2, Vicuna, Llama 3.x, SmolLM2",
    access="Meta's own are gated: accept the licence on the model's page of the hub",
)
