"""Adapter for Hugging Face `SamModel`, an independent implementation of SAM.

Takes a hub folder (safetensors) or an original SA state dict, renamed. It is not bit-equal to
segment-anything (agreement about 1e-5), so the package is part of the recipe. The configuration is
ours, never the folder's, and the weights come through `weights.load_state_dict`:
`from_pretrained` is not called.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..fetch.sam_specs import SAMS, SamSpec
from ..recipe import SuperpixelConfig
from ..records import LocalPaths
from ..weights.key_report import KeyReport
from ..weights.load import load_into
from ..weights.model_config import check_config
from .build import PIXEL_MEAN, PIXEL_STD, Colour, check_type, sam_spec
from .hub_names import from_original
from .load import find_sam, read_recipe_weights
from .mask_decoder import Wanted
from .preprocess import target_size, to_input
from .segment_anything import Dtype, Precision, require_finite


def vision_sizes(spec: SamSpec) -> dict[str, object]:
    """Keyword arguments for `SamVisionConfig`, and what a folder's config must agree with.

    The decoder never varies.
    """
    return {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "global_attn_indexes": list(spec.global_blocks),
        "image_size": spec.image_size,
    }


def load_huggingface(config: SuperpixelConfig, where: LocalPaths, device: str) -> "HuggingFaceSam":
    """The backend of a recipe with `package=transformers`; raises as `build_backend`."""
    spec = sam_spec(config.model)
    if not spec.global_blocks:  # not the published layout of the ViT
        known = ", ".join(row.name for row in SAMS.values() if row.global_blocks)
        raise ConfigError(
            f"package=transformers: model={config.model} is not one of {known}; "
            "set package=segment-anything"
        )
    model, report = _load(config, where, spec)
    return HuggingFaceSam(model, mode=config.mode, dtype=config.dtype, device=device, report=report)


def build_model(spec: SamSpec, *, attention: Literal["eager", "sdpa"] = "eager") -> Any:
    """An untrained `SamModel` on the current default device."""
    from transformers import SamConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    sizes: Any = vision_sizes(spec)
    config = SamConfig(
        vision_config=SamVisionConfig(**sizes),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=spec.image_size),
    )
    config._attn_implementation = attention
    model: Any = SamModel(config)
    return model.eval()


class HuggingFaceSam:
    """`SamBackend` over a `SamModel`. exact: float32, one image at a time; fast: batch, autocast."""

    def __init__(
        self,
        model: Any,
        *,
        mode: Literal["exact", "fast"] = "exact",
        dtype: Dtype = "float32",
        device: str | torch.device = "cpu",
        report: KeyReport | None = None,
        mean: Colour = PIXEL_MEAN,
        std: Colour = PIXEL_STD,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.mode, self.report = mode, report
        self.device = torch.device(device)
        self._precision = Precision(self.device, dtype, exact=mode == "exact")
        self._mean, self._std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (mean, std))
        with torch.no_grad():
            self._image_pe: Tensor = self.model.get_image_wide_positional_embeddings()

    @property
    def image_size(self) -> int:
        return int(self.model.config.prompt_encoder_config.image_size)

    @property
    def channels(self) -> int:
        """C of the image embedding."""
        return int(self.model.config.prompt_encoder_config.hidden_size)

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """See `SamBackend.frame`."""
        return target_size(height, width, self.image_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `SamBackend.embed`."""
        batch = to_input(images, self.image_size, self._mean, self._std)
        with self._precision():
            parts = [image[None] for image in batch] if self.mode == "exact" else [batch]
            features = torch.cat([self.model.get_image_embeddings(part) for part in parts])
        return require_finite(features.float())

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `SamBackend.decode`. Prompt codes stay float32 in every mode; all masks are made."""
        points = points.to(self.device)[None, :, None]  # (1,P,1,2)
        labels = torch.ones(points.shape[:3], dtype=torch.int, device=self.device)
        with torch.no_grad():
            sparse, dense = self.model.get_prompt_embeddings(points, labels)
            with self._precision():
                logits, iou = self.model.mask_decoder(
                    image_embeddings=features.to(self.device)[None],
                    image_positional_embeddings=self._image_pe,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )
        logits, iou = logits[0].float(), iou[0].float()
        return logits if wanted is None else logits[wanted(iou).to(self.device)], iou


def _load(
    config: SuperpixelConfig, where: LocalPaths, spec: SamSpec
) -> tuple[Any, KeyReport | None]:
    attention: Literal["eager", "sdpa"] = "eager" if config.mode == "exact" else "sdpa"
    if config.weights.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.weights.seed)
            return build_model(spec, attention=attention), None
    path = find_sam(config, where)
    if path is not None and path.is_dir():
        check_config(path, vision_sizes(spec), "vision_config")
    state, name = read_recipe_weights(config, where)
    check_type(state, config.model, name)
    with torch.device("meta"):
        model = build_model(spec, attention=attention)
    advice = f"Give a {config.model} checkpoint of segment-anything or its hub folder"
    return model, load_into(model, from_original(state), name, advice, any_float=True)
