"""Superpixels in multimodal models of transformers: fewer visual tokens, the same model.

    model = svp.wrap(LlavaForConditionalGeneration.from_pretrained(folder))
    model.generate(**processor(images=image, text=prompt, return_tensors="pt"), superpixels=[found])

Each image's patch features become one mean per superpixel, and one of what no superpixel covers;
the placeholders in the text become as many. Nothing is trained for that. The wrapped model is
called through its public arguments alone: none of its code is replaced.
"""

import inspect
from typing import TYPE_CHECKING, Any

from ...pipeline.errors import ConfigError
from .llava import WrappedLlava
from .qwen_vl import WrappedQwenVL
from .wrapped import WrappedModel

if TYPE_CHECKING:
    from ...pipeline.masks.encoder_view import Kind
    from ..projectors.svp.drop_in import SVPProjector

# config.model_type -> its class. A new family is one file and one line here.
FAMILIES: dict[str, type[WrappedModel]] = {
    "llava": WrappedLlava,
    "qwen2_vl": WrappedQwenVL,
    "qwen2_5_vl": WrappedQwenVL,
    "qwen3_vl": WrappedQwenVL,
}


def wrap(
    model: Any,
    *,
    projector: "SVPProjector | None" = None,
    view: "Kind | None" = None,
    rest: bool = True,
) -> WrappedModel:
    """A multimodal model of transformers that takes `superpixels=` beside a processor's output.

    model      `LlavaForConditionalGeneration`, or Qwen2-VL's, Qwen2.5-VL's or Qwen3-VL's
    projector  to be trained, in place of LLaVA's own; without one, features are averaged, which
               needs no training
    view       how the processor makes its square of an image (`pipeline.masks.encoder_view.View`),
               by default LLaVA's "clip"; a projector brings its own
    rest       one more token, the mean of what no superpixel covers; not with a projector

    Raises ConfigError for another family, an option that the family has no use for, and a
    transformers older than 5.19, whose models take no features from outside.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        raise ConfigError(f"wrap: a model of type {kind!r}: known are {', '.join(FAMILIES)}")
    if getattr(model, "lm_head", None) is None:
        raise ConfigError(
            f"wrap: {type(model).__name__} has no head: give the model that has one, such as "
            "LlavaForConditionalGeneration"
        )
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"wrap: {type(model).__name__} takes no features from outside: transformers >= 5.19 "
            "is needed"
        )
    return FAMILIES[kind](model, projector=projector, view=view, rest=rest)


__all__ = ["FAMILIES", "WrappedModel", "wrap"]
