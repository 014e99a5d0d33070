"""LLaVA-1.5 in transformers: superpixels instead of 576 patches.

Source: transformers 5.23, models/llava/modeling_llava.py (`get_image_features`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...pipeline.errors import ConfigError
from ...pipeline.masks.encoder_view import Kind, View
from ...pipeline.records import Superpixels
from ..projectors.svp.drop_in import SVPProjector
from .pool import pooling
from .wrapped import Encoded, WrappedModel, check_images


class WrappedLlava(WrappedModel):
    """`LlavaForConditionalGeneration` with CLIP or SigLIP on squares.

    Without a projector of ours LLaVA's own maps the means of the features.
    """

    def __init__(
        self, model: Any, *, projector: SVPProjector | None, view: Kind | None, rest: bool
    ) -> None:
        super().__init__(model, projector=projector, view=view, rest=rest)
        config = model.config
        size = getattr(config.vision_config, "image_size", None)
        if getattr(config.vision_config, "model_type", "") == "pixtral" or size is None:
            raise ConfigError("wrap: LLaVA with Pixtral, whose images have any size, is not known")
        if projector is not None and view is not None:
            raise ConfigError("wrap: a projector has a view of its own: leave out view=")
        self.side = int(size) // int(config.vision_config.patch_size)
        self.view = View(view or "clip", int(size)) if projector is None else projector.view
        if self.view.size != size:
            raise ConfigError(
                f"wrap: the projector is for images of {self.view.size} pixels, this model's have "
                f"{size}: SVPProjector(size={size})"
            )

    def encode(self, inputs: Mapping[str, Any], superpixels: Sequence[Superpixels]) -> Encoded:
        inner = self.model.model
        check_images(superpixels, len(inputs["pixel_values"]))
        output = inner.vision_tower(
            inputs["pixel_values"], output_hidden_states=True, return_dict=True
        )
        features = self._patches(output.hidden_states)
        grid = (self.side, self.side)
        means = []
        if self.projector is None:
            means = [pooling(found, self.view, grid, rest=self.rest) for found in superpixels]
            pairs = zip(means, features, strict=True)
            tokens = [inner.multi_modal_projector(mean(one)) for mean, one in pairs]
        else:
            made, real = self.projector(features, superpixels)
            tokens = [row[keep] for row, keep in zip(made, real, strict=True)]
        output.pooler_output = tokens
        images = len(tokens)
        return Encoded(
            output, [self.side**2] * images, [len(one) for one in tokens], [grid] * images, means
        )

    def _patches(self, states: Sequence[Tensor]) -> Tensor:
        """Features (B,P,C) of the layer or layers that the model reads, without CLS."""
        config = self.model.config
        layers = config.vision_feature_layer
        first = 1 if config.vision_feature_select_strategy == "default" else 0
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features = torch.cat([state[:, first:] for state in chosen], -1)
        if features.shape[1] != self.side**2:
            raise ConfigError(
                f"wrap: {features.shape[1]} features of {self.side}x{self.side} patches: with "
                f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} the "
                "class token is among them or a patch is missing ('default' leaves out the first)"
            )
        return features
