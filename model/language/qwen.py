"""Qwen2.5 and Qwen3, and the text part of Qwen3-VL."""

from dataclasses import replace

from .adapter import Fields, Language

QWEN2 = Language("qwen2", "Qwen2.5")

# Qwen3 answers at once: its template then writes an empty thought before the answer. Its last rows
# (151,936 for 151,669 ids) are spare and become those of the new tokens.
QWEN3 = Language("qwen3", "Qwen3 (thinking off)", template={"enable_thinking": False})


def _text_of_vl(fields: Fields) -> Fields:
    """Qwen3-VL's language model is Qwen3 with positions of three axes, which are equal in a text."""
    text = dict(fields["text_config"])
    for name in ("rope_scaling", "rope_parameters"):
        rope = {n: v for n, v in (text.pop(name, None) or {}).items() if not n.startswith("mrope")}
        if "rope_theta" in rope:
            text["rope_theta"] = rope["rope_theta"]
    return {**text, "tie_word_embeddings": fields.get("tie_word_embeddings", False)}


QWEN3_VL = replace(
    QWEN3,
    title="Qwen3-VL's text part, one position per token",
    text=_text_of_vl,
    prefixes=(("model.language_model.", "model."),),
    other=("model.visual.",),
)
