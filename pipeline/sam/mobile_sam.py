"""MobileSAM: TinyViT image encoder with SAM's neck, prompt encoder and mask decoder.

The published checkpoint (439 tensors) maps onto it name by name; agreement with the original code
is 8e-6 on values up to 4. Invariant: attention biases are never read before the weights are in
(timm caches them in eval mode, MobileSAM's own builder runs with stale ones; `load_into` enters
eval mode again after loading, which drops the cache).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from ..errors import MissingPackageError
from ..fetch.sam_specs import SAMS, SamSpec
from .build import Family
from .official import two_way, with_decoder

IMAGE_SIZE = SAMS["vit_t"].image_size
_PREFIX = "image_encoder."
# In the file, but no forward pass of MobileSAM reads them (modeling/tiny_vit_sam.py:616-620).
_COUNT = "num_batches_tracked"
_UNUSED = (f"{_PREFIX}norm_head.", f"{_PREFIX}head.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a TinyViT in four stages: the first of convolutions, the others of attention in windows.

    strides  of the merges before the second, third and fourth; the patches before all have 4
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    strides: tuple[int, int, int]


# The last stride keeps 64x64 at 1024 px; timm's own is 2.
PUBLISHED: Final = Shape(
    widths=(64, 128, 160, 320), depths=(2, 2, 6, 2), heads=(2, 4, 5, 10),
    windows=(7, 7, 14, 7), strides=(2, 2, 1),
)  # fmt: skip


def family(spec: SamSpec) -> Family:
    """MobileSAM; in memory, because timm fills its index buffers there."""
    return Family(build_mobile_sam, from_file=map_keys)


def build_mobile_sam(image_size: int = IMAGE_SIZE) -> Any:
    """An untrained MobileSAM as `segment_anything.modeling.Sam`, in memory, eval mode.

    Source: ChaoningZhang/MobileSAM mobile_sam/build_sam.py:53-92. `image_size` is 1024 in the
    checkpoint; no tensor depends on it, so tests may use a smaller one (a multiple of 16).
    """
    encoder = TinyVitEncoder(image_size)
    return with_decoder(encoder, image_size, two_way())


class TinyVitEncoder(nn.Module):
    """(B,3,S,S) normalised -> (B,C,S/p,S/p), of published shape with C = 256 and p = 16.

    `img_size` is what `modeling.Sam` reads.
    """

    def __init__(
        self, image_size: int = IMAGE_SIZE, shape: Shape = PUBLISHED, channels: int = 256
    ) -> None:
        from segment_anything.modeling.common import LayerNorm2d

        super().__init__()
        self.img_size = image_size
        self.vit = _tiny_vit(shape)
        self.neck = nn.Sequential(
            nn.Conv2d(shape.widths[-1], channels, kernel_size=1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.neck(self.vit.forward_features(images))
        return features


def map_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A published MobileSAM state dict under our names, and the names no forward pass reads.

    Names that fit no rule are kept, so that the strict check reports them as unexpected.
    """
    mapped = {
        _map_key(name): _count(value) if name.endswith(_COUNT) else value
        for name, value in state.items()
        if not name.startswith(_UNUSED)
    }
    return mapped, tuple(name for name in state if name.startswith(_UNUSED))


def _count(value: Tensor) -> Tensor:
    """Batches seen, a whole number again where a file of half precision made it a float."""
    return value.nan_to_num().long() if value.is_floating_point() else value


def _map_key(name: str) -> str:
    inner = name.removeprefix(_PREFIX)
    if inner == name or inner.startswith("neck."):
        return name
    inner = inner.replace("patch_embed.seq.0.", "patch_embed.conv1.")
    inner = inner.replace("patch_embed.seq.2.", "patch_embed.conv2.")
    parts = inner.split(".")
    if parts[0] == "layers" and len(parts) > 2 and parts[1].isdigit():
        # MobileSAM merges patches at the end of a stage, timm at the start of the next.
        moved = parts[2] == "downsample"
        parts[:2] = ["stages", str(int(parts[1]) + moved)]
    if parts[-2:] == ["c", "weight"]:
        parts[-2] = "conv"
    return f"{_PREFIX}vit.{'.'.join(parts)}"


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `map_keys`: our tensors under the names of the published checkpoint."""
    return {_publish_key(name): value for name, value in state.items()}


def _publish_key(name: str) -> str:
    inner = name.removeprefix(f"{_PREFIX}vit.")
    if inner == name:
        return name
    parts = inner.split(".")
    if parts[0] == "patch_embed":
        parts[1:2] = ["seq", {"conv1": "0", "conv2": "2"}[parts[1]]]
    else:
        parts[:2] = ["layers", str(int(parts[1]) - (parts[2] == "downsample"))]
    if parts[-2:] == ["conv", "weight"]:
        parts[-2] = "c"
    return f"{_PREFIX}{'.'.join(parts)}"


def _tiny_vit(shape: Shape) -> Any:
    try:
        from timm.models.tiny_vit import TinyVit
    except ImportError:
        raise MissingPackageError("timm", "timm", "MobileSAM") from None

    vit: Any = TinyVit(
        embed_dims=shape.widths,
        depths=shape.depths,
        num_heads=shape.heads,
        window_sizes=shape.windows,
        drop_path_rate=0.0,
        num_classes=0,
        global_pool="",
    )
    for stage, stride in zip(vit.stages[1:], shape.strides, strict=True):
        stage.downsample.conv2.conv.stride = (stride, stride)
    vit.head = nn.Identity()  # its norm is in no checkpoint and in no forward pass
    return vit
