"""Tiny SAM: the official `segment_anything` classes at a size that a CPU trains in an hour.

Its outputs keep SAM's order: 0 sub-part, 1 part, 2 whole. Trained on the generated scenes by
workflows/pretrain_tiny/train_sam.py; a stand-in, of no use on photographs.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..fetch.sam_specs import SAMS, SamSpec
from .build import Family

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import nn

_SPEC: Final = SAMS["tiny"]
IMAGE_SIZE: Final = _SPEC.image_size  # pixels of the longer side
PATCH: Final = _SPEC.patch  # embedding 16x16, low-resolution masks 64x64
EMBED_DIM: Final = _SPEC.channels
WEIGHTS: Final = Path(__file__).parents[2] / _SPEC.shipped


def family(spec: SamSpec) -> Family:
    """The tiny SAM, whose weights are in this package."""
    return Family(build_tiny_sam)


def build_tiny_sam() -> "Sam":
    """An untrained tiny `Sam` in evaluation mode, on the CPU, about 1.0 M parameters."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    from ..encoders.patch_stem import SamPatches

    encoder = ImageEncoderViT(
        img_size=IMAGE_SIZE,
        patch_size=PATCH,
        embed_dim=_SPEC.width,
        depth=_SPEC.depth,
        num_heads=_SPEC.heads,
        mlp_ratio=4.0,
        out_chans=EMBED_DIM,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=False,
        window_size=0,
    )
    encoder.patch_embed = SamPatches(encoder.patch_embed.proj)
    return with_tiny_decoder(encoder)


def with_tiny_decoder(encoder: "nn.Module") -> "Sam":
    """The tiny SAM's prompt encoder and mask decoder, untrained, around an encoder of its shapes."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = IMAGE_SIZE // PATCH  # 16
    prompts = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=EMBED_DIM, mlp_dim=2 * EMBED_DIM, num_heads=4
        ),
        transformer_dim=EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=EMBED_DIM,
    )
    # The scenes' channels have about this mean and spread; SAM's own constants are ImageNet's.
    sam = Sam(encoder, prompts, decoder, [160.0, 150.0, 145.0], [65.0, 60.0, 65.0])
    return sam.eval()
