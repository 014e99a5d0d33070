"""Load a `modeling.Sam` for a recipe with checked weights: shipped, random, or from a file."""

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import show
from ..errors import ConfigError, WeightsError
from ..recipe import SuperpixelConfig
from ..records import LocalPaths
from ..weights.key_report import KeyReport
from ..weights.load import load_into, load_state_dict, require_digest
from ..weights.locate import find_weights, given_weights, how_to_get
from ..weights.tensor_names import plain_names
from .build import build_sam, check_type, family, random_sam, sam_spec
from .hub_names import to_original

if TYPE_CHECKING:
    from torch import Tensor

FLAG = "--sam-weights"
ANCHORS = ("mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight",
           "image_encoder.neck.0.weight")  # fmt: skip


def load_sam(config: SuperpixelConfig, where: LocalPaths) -> tuple[Any, KeyReport | None]:
    """The `segment_anything.modeling.Sam` of a recipe on the CPU in eval mode, and the key report.

    Of a recipe with package=transformers it reads a hub folder too: a mask decoder that trains is
    segment-anything's, whatever package made the cache. The report is None for random weights.
    Raises as `build_backend`.
    """
    if config.weights.kind == "random":
        return random_sam(config.model, config.weights.seed), None
    if sam_spec(config.model).package:
        raise WeightsError(
            f"--sam-decoder {config.weights}: the decoder of {config.model} reads more than the image "
            "embedding, and the mask head is SAM's published one: over these embeddings train it from "
            "the start, with --sam-decoder random"
        )
    state, name = read_recipe_weights(config, where)
    if "vision_encoder.pos_embed" in state:
        if config.package != "transformers":
            raise WeightsError(
                f"{show(name, 200)}: the layout of transformers' SamModel: set package=transformers"
            )
        state = to_original(state, build_sam(config.model).state_dict())
    check_type(state, config.model, name)
    state, unused = family(config.model).from_file(state)
    advice = (
        f"This is no complete {config.model} checkpoint: give the published one, or the state dict "
        "of a whole SAM (image encoder, prompt encoder, mask decoder)"
    )
    sam = build_sam(config.model)
    return sam, load_into(sam, state, name, advice, any_float=True, unused=unused)


def find_sam(config: SuperpixelConfig, where: LocalPaths) -> Path | None:
    """Local path of the recipe's SAM weights; None for shipped and random ones."""
    if config.weights.kind != "sha256":
        return None
    return given_weights(where.sam, FLAG) if where.sam else find_weights(config.model, FLAG)


def read_recipe_weights(
    config: SuperpixelConfig, where: LocalPaths
) -> "tuple[dict[str, Tensor], str]":
    """The state dict a recipe names, as it is in the file, and a name for messages."""
    if config.weights.kind == "shipped":
        return _read_shipped(config.model)
    path = find_sam(config, where)
    if path is None:
        raise ConfigError(
            f"weights={config.weights}: names no file: write shipped, random:<seed> or sha256:<hex>"
        )
    require_digest(path, config.weights.value, f"the recipe ({config.model})")
    return read_sam(path), str(path)


def read_sam(path: Path) -> "dict[str, Tensor]":
    """A SAM's tensors under its own names, however its training wrapped them."""
    return plain_names(load_state_dict(path), ANCHORS, str(path))


def _read_shipped(model: str) -> "tuple[dict[str, Tensor], str]":
    shipped = sam_spec(model).shipped
    if not shipped:
        raise ConfigError(
            f"weights=shipped: those of {model} are not in this package; {how_to_get(model, FLAG)}"
        )
    with importlib.resources.as_file(importlib.resources.files("svp") / shipped) as path:
        half = load_state_dict(path)
    # Stored as float16 to keep the package small; training ended on values that float16 holds.
    return {name: tensor.float() for name, tensor in half.items()}, shipped
