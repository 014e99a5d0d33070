"""Base of the wrapped families: shorter inputs, then the model as it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...pipeline.display import counted
from ...pipeline.errors import DataError
from ...pipeline.masks.encoder_view import Kind
from ...pipeline.records import Superpixels
from ..projectors.svp.drop_in import SVPProjector
from .placeholders import ALONG_TEXT, group_starts, resize_groups
from .pool import Pooling


@dataclass(frozen=True, slots=True)
class Encoded:
    """The images of a batch as tokens.

    output    the vision model's, `pooler_output` with one feature per token
    patches   features of each image before, tokens after
    poolings  the means that made the tokens, where they did
    grids     rows and columns of each image's patches
    """

    output: Any
    patches: list[int]
    tokens: list[int]
    grids: list[tuple[int, int]]
    poolings: Sequence[Pooling] = ()


class WrappedModel(nn.Module, ABC):
    """A model of transformers, `model`, that is given superpixels beside its processor's output.

    `superpixels` has one entry per image, in the order of the batch.
    """

    def __init__(
        self, model: Any, *, projector: SVPProjector | None, view: Kind | None, rest: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.projector = projector
        self.rest = rest

    @abstractmethod
    def encode(self, inputs: Mapping[str, Any], superpixels: Sequence[Superpixels]) -> Encoded:
        """Tokens of the images in `inputs`, one feature per superpixel."""

    def positions(self, short: Mapping[str, Tensor], encoded: Encoded) -> Tensor | None:
        """Position ids of the shortened text; None leaves them to the model."""
        return None

    def inputs(self, superpixels: Sequence[Superpixels], **inputs: Any) -> dict[str, Any]:
        """Arguments of the plain model, for a processor's output and superpixels.

        `input_ids`, `attention_mask` and `labels` (B,T) get as many image placeholders as there
        are tokens. Raises DataError for superpixels of another number of images, for video, and
        for a text whose placeholders don't belong to the images.
        """
        if inputs.get("pixel_values_videos") is not None:
            raise DataError("superpixels are those of images: a video can't be given")
        pixels, ids = inputs.get("pixel_values"), inputs.get("input_ids")
        if pixels is None or ids is None:
            raise DataError("superpixels need input_ids and pixel_values of the model's processor")
        encoded = self.encode(inputs, superpixels)
        groups = group_starts(ids, self.model.config.image_token_id, encoded.patches)
        padding = getattr(self.model.generation_config, "pad_token_id", None)
        short = resize_groups(
            inputs, groups, iter(encoded.tokens), 0 if padding is None else int(padding)
        )
        seen = {*ALONG_TEXT, "pixel_values", "image_grid_thw"}
        made = {name: value for name, value in inputs.items() if name not in seen}
        made |= short | {"mm_encoder_outputs": {"image": encoded.output}}
        if (positions := self.positions(short, encoded)) is not None:
            made["position_ids"] = positions
        return made

    def forward(self, *, superpixels: Sequence[Superpixels], **inputs: Any) -> Any:
        """The plain model's output, with a loss if `labels` are given."""
        return self.model(**self.inputs(superpixels, **inputs))

    def generate(self, *, superpixels: Sequence[Superpixels], **inputs: Any) -> Tensor:
        """Token ids (B,T) as the plain model's `generate` returns them: the shortened prompt first.

        `inputs` may hold any option of transformers' `generate`.
        """
        made: Tensor = self.model.generate(**self.inputs(superpixels, **inputs))
        return made


def check_images(superpixels: Sequence[Superpixels], images: int) -> None:
    """Raises DataError unless there is one entry per image."""
    if len(superpixels) != images:
        raise DataError(
            f"superpixels of {counted(len(superpixels), 'image')} for "
            f"{counted(images, 'image')}: give one entry per image, in the order of the batch"
        )
