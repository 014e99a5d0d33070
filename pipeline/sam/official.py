"""SAM with a plain ViT, at the sizes of its row; any row of `fetch.sam_specs.SAMS` with a ViT.

Source: segment_anything/build_sam.py; its keys: tests/fixtures/keys.
"""

from functools import partial
from typing import Any

from ..errors import MissingPackageError
from ..fetch.sam_specs import SamSpec
from .build import Family


def family(spec: SamSpec) -> Family:
    """A SAM of the published layout."""
    return Family(lambda: build_official(spec), meta=True)


def build_official(spec: SamSpec) -> Any:
    """An untrained `modeling.Sam` with the ViT of `spec`, in evaluation mode."""
    try:
        from segment_anything.modeling import ImageEncoderViT
    except ImportError:
        raise MissingPackageError("segment-anything", "all", f"SAM {spec.name}") from None
    import torch

    encoder = ImageEncoderViT(
        img_size=spec.image_size,
        patch_size=spec.patch,
        depth=spec.depth,
        embed_dim=spec.width,
        num_heads=spec.heads,
        global_attn_indexes=spec.global_blocks,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        window_size=14,
    )
    return with_decoder(encoder, spec.image_size)


def with_decoder(encoder: Any, image_size: int, transformer: Any = None, patch: int = 16) -> Any:
    """SAM's own prompt encoder and mask decoder, in their one published size, around an encoder.

    transformer  the decoder's, where it is made before: what a seed gives depends on the order
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam

    grid = image_size // patch
    prompts = PromptEncoder(
        embed_dim=256,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer or two_way())
    return Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder).eval()


def two_way() -> Any:
    """The transformer of SAM's mask decoder, untrained."""
    from segment_anything.modeling import TwoWayTransformer

    return TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
