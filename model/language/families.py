"""The families of language models that are accepted, by the `model_type` of config.json.

To add one: a file with its `Language`, and a line here; from outside, an entry point of the group
svp.languages or a plug-in file that puts it here.
"""

from typing import Any

from ...pipeline import plugins
from ...pipeline.display import show
from ...pipeline.errors import WeightsError
from .adapter import Language
from .gemma import GEMMA3, GEMMA3_VL
from .granite import GRANITE
from .llama import LLAMA
from .phi import PHI3
from .qwen import QWEN2, QWEN3, QWEN3_VL
from .smollm import SMOLLM3

FAMILIES: dict[str, Language] = {
    "llama": LLAMA,
    # Files of GLaMM and LISA name their own; the language model in them is LLaMA's.
    "llava": LLAMA,
    "glamm": LLAMA,
    "lisa": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_vl": QWEN3_VL,
    "smollm3": SMOLLM3,
    "phi3": PHI3,
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3_VL,
    "granite": GRANITE,
}


plugins.attach(plugins.LANGUAGES, FAMILIES, Language, instances=True)


def family(model_type: object) -> Language:
    """The family of a `model_type`. Raises WeightsError for one that is not listed."""
    kind = str(model_type).lower()
    found: Language | None = FAMILIES.get(kind) or plugins.find(plugins.LANGUAGES, kind)
    if found is None:
        raise WeightsError(
            f"model_type {show(model_type)}: need a language model of a family that is supported: "
            f"{', '.join(sorted(FAMILIES))} ({plugins.HOW} {plugins.LANGUAGES})"
        )
    return found


def family_of(lm: Any) -> Language:
    """The family of a causal language model of transformers. Raises WeightsError."""
    return family(lm.config.model_type)
