"""Tiny MobileSAM: a TinyViT whose embeddings imitate the tiny SAM's, with that SAM's own decoder.

Distilled as MobileSAM was (arXiv 2306.14289: image encoder alone, decoder unchanged), by
workflows/pretrain_tiny/train_mobile.py; a stand-in, of no use on photographs.
"""

from typing import TYPE_CHECKING, Final

from ..fetch.sam_specs import SamSpec
from .build import Family
from .mobile_sam import Shape, TinyVitEncoder, map_keys
from .tiny import EMBED_DIM, IMAGE_SIZE, with_tiny_decoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SHAPE: Final = Shape(
    widths=(16, 32, 48, 64), depths=(1, 1, 3, 1), heads=(1, 2, 3, 4),
    windows=(8, 8, 16, 8), strides=(2, 1, 1),
)  # fmt: skip


def family(spec: SamSpec) -> Family:
    """The tiny MobileSAM, whose weights are in this package, in the names of the published file."""
    return Family(build_tiny_mobile, from_file=map_keys)


def build_tiny_mobile() -> "Sam":
    """An untrained tiny MobileSAM in evaluation mode, on the CPU, about 0.4 M parameters."""
    return with_tiny_decoder(TinyVitEncoder(IMAGE_SIZE, SHAPE, EMBED_DIM))
