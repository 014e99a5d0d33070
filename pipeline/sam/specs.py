"""SAM model specifications: build on the meta device, identify by keys, initialise randomly.

The official types differ in the encoder only, so its width and depth identify them
(segment_anything/build_sam.py; its keys: tests/fixtures/keys).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..display import show
from ..errors import ConfigError, MissingPackageError, WeightsError
from ..weights.rehearsal import dial

if TYPE_CHECKING:
    from torch import Tensor

# (encoder width, encoder depth) of the official checkpoints.
OFFICIAL: dict[str, tuple[int, int]] = {
    "vit_b": (768, 12),
    "vit_l": (1024, 24),
    "vit_h": (1280, 32),
}
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def official() -> dict[str, tuple[int, int]]:
    """`OFFICIAL`, with the sizes of a rehearsal's stand-ins where they differ."""
    found = dial()
    return OFFICIAL | found.sam if found else OFFICIAL


def build_sam(model: str) -> Any:
    """An untrained `modeling.Sam` of type tiny, vit_b, vit_l, vit_h or vit_t (MobileSAM).

    The official ViTs are built on the meta device (no memory, no random initialisation) and wait
    for `load_into`; the small ones are built in memory because timm fills its index buffers there.
    """
    if model not in OFFICIAL:
        return _build_real(model)
    import torch

    with torch.device("meta"):
        sam = _build_real(model)
    # Not in any checkpoint (non-persistent buffers), so loading would leave them on meta.
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return sam


def random_sam(model: str, seed: int) -> Any:
    """`model` with its default initialisation from `seed`; the global generator is untouched.

    Outputs are finite and meaningless: predicted IoU is near 0, so with the default thresholds no
    mask survives. For tests of the machinery and for timing.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = _build_real(model)
    sam.eval()
    return sam.requires_grad_(False)


def detect_type(state: "Mapping[str, Tensor]") -> str | None:
    """vit_b, vit_l, vit_h or vit_t from names and shapes; None if it is none of them."""
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "vit_t"
    position = state.get("image_encoder.pos_embed")
    if position is None or position.ndim != 4:
        return None
    blocks = {name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")}
    found = (position.shape[-1], len(blocks))
    return next((name for name, size in official().items() if size == found), None)


def check_type(state: "Mapping[str, Tensor]", model: str, where: str) -> None:
    """`WeightsError` if the file holds another known SAM type than the recipe's `model`."""
    found = detect_type(state)
    if found is not None and found != model:
        raise WeightsError(
            f"{show(where, 200)}: holds SAM {found}, the recipe says {model}: set model={found}"
        )


def _build_real(model: str) -> Any:
    if model == "tiny":
        from .tiny import build_tiny_sam

        return build_tiny_sam()
    if model == "vit_t":
        from .mobile_sam import build_mobile_sam

        return build_mobile_sam()
    if model not in OFFICIAL:
        raise ConfigError(f"model={show(model)}: allowed are tiny, vit_t, {', '.join(OFFICIAL)}")
    try:
        from segment_anything import sam_model_registry
    except ImportError:
        raise MissingPackageError("segment-anything", "all", f"SAM {model}") from None
    size = official()[model]
    return sam_model_registry[model]() if size == OFFICIAL[model] else _build_smaller(*size)


def _build_smaller(width: int, depth: int) -> Any:
    """An official type with a smaller encoder, for a rehearsal; all else as published.

    One head: the attention of all 4,096 patches is what costs time and memory.
    """
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT

    from .mobile_sam import around

    encoder = ImageEncoderViT(
        depth=depth, embed_dim=width, num_heads=1, global_attn_indexes=(depth - 1,),
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
    )  # fmt: skip
    return around(encoder)
