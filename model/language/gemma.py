"""Gemma 3: rows of the embedding are multiplied by sqrt(D), q and k are normalised, most layers see
a window."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from .adapter import Fields, Language


def _as_rows(config: Any) -> float:
    return float(config.hidden_size**0.5)


def _capped(config: Any, logits: Tensor) -> Tensor:
    cap = config.final_logit_softcapping
    return logits if cap is None else (logits / cap).tanh() * cap


GEMMA3 = Language(
    "gemma3_text",
    "Gemma 3, 270M and 1B",
    visual_scale=_as_rows,
    logits=_capped,
    access="Gated: accept Google's terms on the model's page of the hub",
)


def _text(fields: Fields) -> Fields:
    text: Fields = fields["text_config"]
    return text


GEMMA3_VL = replace(
    GEMMA3,
    title="Gemma 3's text part, 4B and more",
    text=_text,
    # As published, and as transformers 5 saves it.
    prefixes=(("language_model.", ""), ("model.language_model.", "model.")),
    other=(
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
)
