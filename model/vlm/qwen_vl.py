"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: superpixel means of what the vision tower's merger returns.

A token stands where its superpixel's centroid is: M-RoPE numbers rows and columns of merged
patches, so the text after an image keeps the position it had. DeepStack's features (Qwen3-VL) are
averaged by the same weights. Source: transformers 5.23, models/qwen3_vl/modeling_qwen3_vl.py
(`get_image_features`, `get_rope_index`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...pipeline.errors import ConfigError
from ...pipeline.masks.encoder_view import Kind, View
from ...pipeline.records import Superpixels
from ..projectors.svp.drop_in import SVPProjector
from .placeholders import group_starts
from .pool import pooling
from .wrapped import Encoded, WrappedModel, check_images


class WrappedQwenVL(WrappedModel):
    """A Qwen-VL model with its head. Images have any size: their grid comes with them."""

    def __init__(
        self, model: Any, *, projector: SVPProjector | None, view: Kind | None, rest: bool
    ) -> None:
        super().__init__(model, projector=projector, view=view, rest=rest)
        if projector is not None or view is not None:
            raise ConfigError(
                "wrap: Qwen-VL has no projector of ours and one view, the whole image: leave out "
                "projector= and view="
            )

    def encode(self, inputs: Mapping[str, Any], superpixels: Sequence[Superpixels]) -> Encoded:
        sizes, merge = inputs["image_grid_thw"], self.model.config.vision_config.spatial_merge_size
        check_images(superpixels, len(sizes))
        output = self.model.get_image_features(inputs["pixel_values"], sizes, return_dict=True)
        grids = [(height // merge, width // merge) for _, height, width in sizes.tolist()]
        # The processor squashes an image onto its grid, so cells are equal shares of either side.
        view = View("squash", 1)
        pairs = zip(superpixels, grids, strict=True)
        means = [pooling(found, view, grid, rest=self.rest) for found, grid in pairs]

        def pooled(features: Sequence[Tensor]) -> list[Tensor]:
            return [mean(one) for mean, one in zip(means, features, strict=True)]

        output.pooler_output = pooled(output.pooler_output)
        if (deep := getattr(output, "deepstack_features", None)) is not None:
            output.deepstack_features = [pooled(level) for level in deep]
        patches = [rows * columns for rows, columns in grids]
        return Encoded(output, patches, [len(mean) for mean in means], grids, means)

    def positions(self, short: Mapping[str, Tensor], encoded: Encoded) -> Tensor:
        """(4,B,T) int64: the place in the text, then time, row and column of M-RoPE."""
        ids, real = short["input_ids"], short["attention_mask"]
        place = ids.new_zeros(4, *ids.shape)
        place[0] = (real.cumsum(-1) - 1).masked_fill(real == 0, 0)
        images = iter(zip(encoded.poolings, encoded.grids, strict=True))
        rows = group_starts(ids, self.model.config.image_token_id, encoded.tokens)
        for b, groups in enumerate(rows):
            at, now = int(real[b].argmax()), 0
            end = at + int(real[b].sum())
            for start, size in (*groups, (end, 0)):
                place[1:, b, at:start] = now + torch.arange(start - at, device=ids.device)
                now += start - at
                at = start + size
                if size:
                    mean, grid = next(images)
                    centre = mean.centre.round().long().to(ids.device)
                    place[1, b, start:at] = now
                    place[2:, b, start:at] = now + centre.T
                    now += max(grid)
        return place
