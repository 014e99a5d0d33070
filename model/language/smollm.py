"""SmolLM3: every fourth layer has no rotary positions. SmolLM2 is LLaMA's layout."""

from .adapter import Language

SMOLLM3 = Language("smollm3", "SmolLM3 (thinking off)", template={"enable_thinking": False})
