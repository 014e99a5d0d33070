"""Adapter for SAMs that only transformers has: SAM 2.1, SAM 3's tracker, EdgeTAM and SAM-HQ.

Image encoder, prompt encoder and mask decoder are transformers' own. Weights come strictly through
`weights.load_state_dict`; of a folder's config.json the sizes are read as data, for a type that is
listed in `HUB_SAMS`. What a checkpoint holds beside (SAM 2's memory, SAM 3's detector) is left out by
the class's `_keys_to_ignore_on_load_unexpected`, and counted in the report.

A decoder reads more than the image embedding: SAM 2's two finer maps, SAM-HQ's early features. They
travel as further channels of the features, C of them the embedding; finer maps with the pixels of a
cell side by side (`pixel_unshuffle`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..display import show
from ..errors import ConfigError, WeightsError
from ..fetch.sam_specs import SamSpec
from ..recipe import SuperpixelConfig
from ..records import LocalPaths
from ..weights.file_checks import read_json
from ..weights.key_report import KeyReport, load_into
from ..weights.load import load_state_dict, require_digest
from ..weights.model_config import MAX_CONFIG, check_config
from .build import PIXEL_MEAN, PIXEL_STD, Colour, Family, sam_spec
from .huggingface import HuggingFaceSam
from .load import find_sam
from .mask_decoder import Wanted
from .official import with_decoder
from .preprocess import target_size, to_input
from .segment_anything import require_finite

PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
HALF = (127.5, 127.5, 127.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSam:
    """One family of transformers.

    name      its classes are NAMEModel and NAMEConfig
    types     `model_type` of its folders, the video model's too, whose file holds the same image part
    vision    `model_type` of its vision_config
    backbone  `model_type` of the backbone_config inside; "": it has none
    within    key of config.json under which the parts lie; "": they lie at the top
    square    the image is stretched to S x S; False: its longest side is S and the rest is zero
    mean, std of the input, units of 0..255
    renamed   (pattern, replacement) from names in a file to those of the model; source: transformers
              conversion_mapping.py
    """

    name: str
    types: tuple[str, ...]
    vision: str
    backbone: str = ""
    within: str = ""
    square: bool = True
    mean: Colour = PIXEL_MEAN
    std: Colour = PIXEL_STD
    renamed: tuple[tuple[str, str], ...] = ()


HUB_SAMS: dict[str, HubSam] = {
    "sam2": HubSam(
        name="Sam2", types=("sam2", "sam2_video"), vision="sam2_vision_model",
        backbone="sam2_hiera_det_model",
    ),
    "sam3": HubSam(
        name="Sam3Tracker", types=("sam3_video", "sam3_tracker"), vision="sam3_vision_model",
        backbone="sam3_vit_model", within="tracker_config", mean=HALF, std=HALF,
        renamed=(
            (r"^detector_model\.vision_encoder\.backbone\.", "vision_encoder.backbone."),
            (r"^tracker_neck\.", "vision_encoder.neck."),
            (r"^tracker_model\.", ""),
        ),
    ),
    "edgetam": HubSam(
        name="EdgeTam", types=("edgetam", "edgetam_video"), vision="edgetam_vision_model",
        backbone="timm_wrapper",
    ),
    "sam_hq": HubSam(
        name="SamHQ", types=("sam_hq",), vision="sam_hq_vision_model", square=False
    ),
}  # fmt: skip

# transformers 5.23 misspells the field in its default, which therefore builds a ResNet.
_EDGETAM = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "do_pooling": False, "num_classes": 2,
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {"edgetam": {"vision_config": {"backbone_config": _EDGETAM}}}


def family(spec: SamSpec) -> Family:
    """The published mask decoder, untrained, for embeddings of `spec`'s size: it trains over them."""
    return Family(lambda: with_decoder(_NoEncoder(spec), spec.image_size, patch=spec.patch))


class _NoEncoder(nn.Module):
    """In the place of an image encoder that transformers has; `img_size` is what `Sam` reads."""

    def __init__(self, spec: SamSpec) -> None:
        super().__init__()
        self.img_size = spec.image_size


def load_hub_sam(config: SuperpixelConfig, where: LocalPaths, device: str) -> "HubBackend":
    """The backend of a recipe whose model is one of `HUB_SAMS`; raises as `build_backend`."""
    spec, kind = sam_spec(config.model), HUB_SAMS[config.model]
    report: KeyReport | None = None
    if config.weights.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.weights.seed)
            model = build_model(kind, DEFAULTS.get(config.model, {}))
    else:
        path = find_sam(config, where)
        if path is None or not path.is_dir():
            raise ConfigError(
                f"{config.model}: give its folder of the hub ({spec.hub}), with config.json and "
                "model.safetensors, to --sam-weights"
            )
        require_digest(path, config.weights.value, f"the recipe ({config.model})")
        model = build_model(kind, read_sizes(path, kind))
        report = load_model(model, path, kind)
    _require_shape(model, spec)
    return HubBackend(
        model, kind, mode=config.mode, dtype=config.dtype, device=device, report=report
    )


def read_sizes(folder: Path, kind: HubSam) -> dict[str, Any]:
    """The three sub-configurations of a folder's config.json. Raises WeightsError for another model."""
    check_config(folder, {})
    found = read_json(folder / "config.json", MAX_CONFIG)
    if found.get("model_type") not in kind.types:
        raise WeightsError(
            f"{show(str(folder), 200)}: model_type is {show(found.get('model_type'))}, "
            f"{kind.name} has {' or '.join(kind.types)}: set model to the SAM it holds"
        )
    outer: Any = found.get(kind.within, found) if kind.within else found
    outer = outer if isinstance(outer, dict) else {}
    parts = {name: outer[name] for name in PARTS if isinstance(outer.get(name), dict)}
    vision = parts.get("vision_config", {})
    inner = vision.get("backbone_config") or {}
    types = vision.get("model_type", kind.vision), inner.get("model_type", kind.backbone)
    # timm would ask the hub for an architecture with a prefix such as hf-hub:
    plain = re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", str(inner.get("architecture", "none")))
    if types != (kind.vision, kind.backbone) or not plain:
        raise WeightsError(
            f"{show(str(folder), 200)}: refused, its vision_config is {show(types)}, that of "
            f"{kind.name} is {(kind.vision, kind.backbone)}"
        )
    return parts


def build_model(kind: HubSam, sizes: Mapping[str, Any]) -> Any:
    """An untrained model, in memory: SAM 3's rotary tables are in no file. Raises WeightsError."""
    import transformers

    library: Any = transformers
    try:
        config = getattr(library, f"{kind.name}Config")(**sizes)
        config._attn_implementation = "sdpa"
        return getattr(library, f"{kind.name}Model")(config).eval()
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"config.json is none of {kind.name}: {show(str(error), 300)}") from None


def load_model(model: Any, path: Path, kind: HubSam) -> KeyReport:
    """Strictly load the folder `path`; names the class does not read are told in the report."""
    state = load_state_dict(path)
    for pattern, replacement in kind.renamed:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    for name, source in (model._tied_weights_keys or {}).items():
        if source in state:
            state.setdefault(name, state[source])
        elif name in state:
            state[source] = state[name]
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    own = model.state_dict().keys()
    extra = [n for n in state if n not in own and any(re.search(rule, n) for rule in ignored)]
    kept = {name: value for name, value in state.items() if name not in extra}
    advice = f"Give a complete folder of {kind.name}, as transformers saves it"
    return load_into(model, kept, str(path), advice, any_float=True, unused=extra)


def _require_shape(model: Any, spec: SamSpec) -> None:
    """The sizes that a plan has from the row of `spec`."""
    prompts = model.config.prompt_encoder_config
    size, patch = int(prompts.image_size), int(prompts.patch_size)
    if (size, patch, prompts.hidden_size) != (spec.image_size, spec.patch, spec.channels):
        raise WeightsError(
            f"{spec.name}: image size {spec.image_size}, patch size {spec.patch} and width "
            f"{spec.channels} are needed; this config.json says {size}, {patch} and "
            f"{prompts.hidden_size}"
        )


class HubBackend(HuggingFaceSam):
    """`SamBackend` over a model of `HUB_SAMS`; arguments but `kind` as of `HuggingFaceSam`."""

    def __init__(self, model: Any, kind: HubSam, **options: Any) -> None:
        super().__init__(model, mean=kind.mean, std=kind.std, **options)
        self.kind = kind
        self._side = self.image_size // int(model.config.prompt_encoder_config.patch_size)

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """See `SamBackend.frame`."""
        side = self.image_size
        return (side, side) if self.kind.square else target_size(height, width, side)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `SamBackend.embed`; (B,C+E,h,w), E channels of what else the decoder reads."""
        batch = to_input(images, self.image_size, self._mean, self._std, self.frame)
        with torch.no_grad(), self._precision():
            parts = [image[None] for image in batch] if self.mode == "exact" else [batch]
            features = torch.cat([self._packed(part) for part in parts])
        return require_finite(features.float())

    def _packed(self, pixels: Tensor) -> Tensor:
        if not self.kind.square:
            embedding, early = self.model.get_image_embeddings(pixels)
            return torch.cat([embedding, early[0].permute(0, 3, 1, 2)], dim=1)
        *fine, embedding = self.model.get_image_embeddings(pixels)
        cells = [F.pixel_unshuffle(x, x.shape[-1] // self._side) for x in fine]
        return torch.cat([embedding, *cells], dim=1)

    def _unpacked(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The embedding (1,C,h,w), and the decoder's further arguments."""
        embedding, rest = features[None, : self.channels], features[None, self.channels :]
        if not self.kind.square:
            early = [rest.permute(0, 2, 3, 1)]
            return embedding, {"hq_token_only": False, "intermediate_embeddings": early}
        # Maps of 4h x 4w and 2h x 2w, with an eighth and a quarter of the channels.
        finest, finer = rest[:, : 2 * self.channels], rest[:, 2 * self.channels :]
        maps = [F.pixel_shuffle(finest, 4), F.pixel_shuffle(finer, 2)]
        return embedding, {"high_resolution_features": maps}

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `SamBackend.decode`. Prompt codes stay float32 in every mode; all masks are made."""
        points = points.to(self.device).float()[None, :, None]  # (1,P,1,2)
        labels = torch.ones(points.shape[:3], dtype=torch.int, device=self.device)
        embedding, more = self._unpacked(features.to(self.device))
        scores: list[Tensor] = []
        hook = self.model.mask_decoder.iou_prediction_head.register_forward_hook(
            lambda module, inputs, found: scores.append(found)
        )
        try:
            with torch.no_grad():
                sparse, dense = self.model.get_prompt_embeddings(points, labels)
                with self._precision():
                    logits, iou = self.model.mask_decoder(
                        image_embeddings=embedding,
                        image_positional_embeddings=self._image_pe,
                        sparse_prompt_embeddings=sparse,
                        dense_prompt_embeddings=dense,
                        multimask_output=True,
                        **more,
                    )[:2]
        finally:
            hook.remove()
        logits, iou = logits[0].float(), iou[0].float()
        if not self.kind.square:
            # SAM-HQ sorts its masks by score; their level, sub-part to whole, is the order before.
            level = scores[0][0, :, 1:].float().sort(dim=1, descending=True).indices.argsort(dim=1)
            rows = torch.arange(len(level), device=level.device)[:, None]
            logits, iou = logits[rows, level], iou[rows, level]
        return logits if wanted is None else logits[wanted(iou).to(self.device)], iou
