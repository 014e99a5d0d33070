"""Encoder specifications: one row per vision encoder, read by all other modules.

Recipes, options, cost model, weight search, downloads and benchmarks read `ENCODERS`. A new encoder
is one row here and, for a new family, one module with a function `family(spec, size)`
(`encoders.backbone.Family`). Plain data: the command line reads this without torch, numpy or
pydantic.
"""

from dataclasses import dataclass
from typing import Any

from .published import META, Remote, RemoteFile

Colour = tuple[float, float, float]

HUB = "https://huggingface.co"
CLIP_336 = (
    f"{HUB}/openai/clip-vit-large-patch14-336/resolve/ce19dc912ca5cd21c8a653c79e251e808ccabcd1"
)

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
HALF: Colour = (0.5, 0.5, 0.5)
ZERO: Colour = (0.0, 0.0, 0.0)
ONE: Colour = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder.

    module     builds it: a module of this package (".dinov2") or of another ("my_package.encoder")
    hidden     channels C of its patch features
    blocks     transformer blocks
    heads      attention heads
    patch      side of a patch, pixels
    prefix     tokens before those of the patches: CLS and registers
    cls        whether it gives a vector of the whole view: a CLS token or a pooled one
    size       side of its usual square view, pixels
    mean, std  of the RGB values in [0, 1] that it was trained with; 0 and 1 where the model itself
               normalises
    mlp        width of its feed-forward layers, 0 for 4 C
    swiglu     whether these are gated
    qkv_bias   whether queries and values have biases
    tflop      TFLOP of one view of `size`: 2 per multiply-add, attention included
    gigabytes  of its weights in float32
    files      names of weight files or folders to look for
    hub        its repository on the Hugging Face hub, "" for none
    licence    of the weights
    access     what a user must do before the hub hands them out, "" for nothing
    packages   that it needs beside transformers; each is an extra of this package
    remote     what `svp fetch` brings, None if nothing
    shipped    weights in this package, a path relative to it; "" for none
    stand_in   of no use on photographs
    """

    name: str
    module: str
    hidden: int
    blocks: int
    heads: int
    patch: int = 14
    prefix: int = 5
    cls: bool = True
    size: int = 336
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    mlp: int = 0
    swiglu: bool = False
    qkv_bias: bool = True
    tflop: float
    gigabytes: float
    files: tuple[str, ...] = ()
    hub: str = ""
    licence: str = ""
    access: str = ""
    packages: tuple[str, ...] = ()
    remote: Remote | None = None
    shipped: str = ""
    stand_in: bool = False

    @property
    def inner(self) -> int:
        """Width of its feed-forward layers."""
        return self.mlp or 4 * self.hidden

    def view_tflop(self, size: int) -> float:
        """TFLOP of one view of `size` pixels, taken as proportional to its patches."""
        return self.tflop * (size / self.size) ** 2


def _dinov2(code: str, size: int, *, exact: bool = False) -> Remote:
    path = f"dinov2_{code}_reg4_pretrain.pth"
    file = RemoteFile(f"{META}/dinov2/dinov2_{code}/{path}", path, size, exact=exact)
    name = {"s": "small", "b": "base", "l": "large"}[code[3]]
    return Remote(f"dinov2-{name}", f"DINOv2 with registers, {code}", "Apache-2.0", (file,))


def _clip_336(name: str, size: int, sha256: str) -> RemoteFile:
    path = f"clip-vit-large-patch14-336/{name}"
    return RemoteFile(f"{CLIP_336}/{name}", path, size, f"sha256:{sha256}")


def _hub(name: str, about: str, licence: str, hub: str, size: int) -> Remote:
    """A folder of the hub, as it is now: its publisher states no digests."""
    folder, base = hub.rpartition("/")[2], f"{HUB}/{hub}/resolve/main"
    return Remote(name, f"{about} (hub folder)", licence, (
        RemoteFile(f"{base}/config.json", f"{folder}/config.json", 20_000, exact=False),
        RemoteFile(f"{base}/model.safetensors", f"{folder}/model.safetensors", size, exact=False),
    ))  # fmt: skip


def _dinov3(name: str, code: str, **shape: Any) -> EncoderSpec:
    """DINOv3 trained on LVD-1689M, at the view that gives 24 x 24 patches."""
    folder = f"dinov3-{code}16-pretrain-lvd1689m"
    hub = f"facebook/{folder}"
    access = (
        f"The weights are gated: accept the DINOv3 License at {HUB}/{hub}, then "
        "`hf auth login`; a request can be refused"
    )
    return EncoderSpec(
        name=f"dinov3-{name}", module=".dinov3", patch=16, size=384,
        files=(folder,), hub=hub, licence="DINOv3 License", access=access, **shape,
    )  # fmt: skip


def _pe_spatial(name: str, code: str, patch: int, size: int, **shape: Any) -> EncoderSpec:
    """PE-Spatial in timm's layout, at the view it was trained with (32 x 32 patches)."""
    hub = f"timm/vit_pe_spatial_{name if name != 'giant' else 'gigantic'}_patch{patch}_{size}.fb"
    called, bytes_ = f"pe-spatial-{name}", int(shape["gigabytes"] * 1e9)
    return EncoderSpec(
        name=called, module=".pe_spatial", patch=patch, size=size, mean=HALF, std=HALF,
        files=(hub.removeprefix("timm/"), f"PE-Spatial-{code}{patch}-{size}.pt"), hub=hub,
        licence="Apache-2.0", packages=("timm",),
        remote=_hub(called, f"PE-Spatial {code}/{patch}", "Apache-2.0", hub, bytes_),
        **({"prefix": 1} | shape),
    )  # fmt: skip


def _siglip2(name: str, code: str, size: int, whole: float, **shape: Any) -> EncoderSpec:
    """SigLIP 2 of one input size; `whole` GB with the text model that its file also holds."""
    hub = f"google/siglip2-{code}-patch16-{size}"
    called = f"siglip2-{name}-{size}"
    return EncoderSpec(
        name=called, module=".siglip", patch=16, prefix=0, size=size, mean=HALF, std=HALF,
        files=(hub.removeprefix("google/"),), hub=hub, licence="Apache-2.0",
        remote=_hub(called, f"SigLIP 2 {code} at {size} px", "Apache-2.0", hub, int(whole * 1e9)),
        **shape,
    )  # fmt: skip


def _c_radio(name: str, code: str, **shape: Any) -> EncoderSpec:
    """C-RADIOv4 at the view that gives 24 x 24 patches: three CLS tokens and seven registers."""
    hub, licence = f"nvidia/C-RADIOv4-{code}", "NVIDIA Open Model License"
    called, bytes_ = f"c-radio-v4-{name}", int(shape["gigabytes"] * 1e9)
    return EncoderSpec(
        name=called, module=".radio", patch=16, prefix=10, size=384, mean=ZERO, std=ONE,
        files=(f"C-RADIOv4-{code}",), hub=hub, licence=licence,
        remote=_hub(called, f"C-RADIOv4 {code}", licence, hub, bytes_), **shape,
    )  # fmt: skip


_BASE = {"hidden": 768, "blocks": 12, "heads": 12}
_LARGE = {"hidden": 1024, "blocks": 24, "heads": 16}
_SO400M = {"hidden": 1152, "blocks": 27, "heads": 16, "mlp": 4304}

_ROWS = (
    EncoderSpec(
        name="tiny", module=".tiny",
        hidden=96, blocks=6, heads=4, patch=8, size=128, tflop=0.0005, gigabytes=0.003,
        shipped="workflows/tiny/dinov2.safetensors", licence="Apache-2.0", stand_in=True,
    ),
    EncoderSpec(  # of world 2's scenes
        name="tiny-world2", module=".tiny",
        hidden=96, blocks=6, heads=4, patch=8, size=128, tflop=0.0005, gigabytes=0.003,
        shipped="workflows/tiny/world2/dinov2.safetensors", stand_in=True,
    ),
    EncoderSpec(
        name="dinov2-small", module=".dinov2",
        hidden=384, blocks=12, heads=6, tflop=0.031, gigabytes=0.09,
        files=("dinov2-with-registers-small", "dinov2_vits14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-small", licence="Apache-2.0",
        remote=_dinov2("vits14", 88_300_000),
    ),
    EncoderSpec(
        name="dinov2-base", module=".dinov2",
        hidden=768, blocks=12, heads=12, tflop=0.113, gigabytes=0.35,
        files=("dinov2-with-registers-base", "dinov2_vitb14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-base", licence="Apache-2.0",
        remote=_dinov2("vitb14", 346_400_000),
    ),
    EncoderSpec(
        name="dinov2-large", module=".dinov2",
        hidden=1024, blocks=24, heads=16, tflop=0.386, gigabytes=1.22,
        files=("dinov2-with-registers-large", "dinov2_vitl14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-large", licence="Apache-2.0",
        remote=_dinov2("vitl14", 1_217_607_321, exact=True),
    ),
    _dinov3("small", "vits", hidden=384, blocks=12, heads=6, tflop=0.031, gigabytes=0.086),
    _dinov3("base", "vitb", **_BASE, tflop=0.111, gigabytes=0.343),
    _dinov3("large", "vitl", **_LARGE, tflop=0.385, gigabytes=1.213),
    _dinov3("huge-plus", "vith", hidden=1280, blocks=32, heads=20, mlp=5120, swiglu=True,
            tflop=1.031, gigabytes=3.362),
    _dinov3("7b", "vit7b", hidden=4096, blocks=40, heads=32, mlp=8192, swiglu=True, qkv_bias=False,
            tflop=8.023, gigabytes=26.86),
    _pe_spatial("tiny", "T", 16, 512, hidden=192, blocks=12, heads=3,
                tflop=0.0209, gigabytes=0.0227),
    _pe_spatial("small", "S", 16, 512, hidden=384, blocks=12, heads=6,
                tflop=0.0635, gigabytes=0.088),
    _pe_spatial("base", "B", 16, 512, **_BASE, tflop=0.214, gigabytes=0.346),
    _pe_spatial("large", "L", 14, 448, **_LARGE, tflop=0.724, gigabytes=1.216),
    _pe_spatial("giant", "G", 14, 448, hidden=1536, blocks=50, heads=16, mlp=8960, prefix=0,
                cls=False, tflop=4.109, gigabytes=7.408),
    _siglip2("base", "base", 384, 1.5, **_BASE, tflop=0.111, gigabytes=0.373),
    _siglip2("base", "base", 512, 1.5, **_BASE, tflop=0.214, gigabytes=0.374),
    _siglip2("large", "large", 384, 3.53, **_LARGE, tflop=0.381, gigabytes=1.265),
    _siglip2("large", "large", 512, 3.53, **_LARGE, tflop=0.723, gigabytes=1.267),
    _siglip2("so400m", "so400m", 384, 4.54, **_SO400M, tflop=0.516, gigabytes=1.713),
    _siglip2("so400m", "so400m", 512, 4.54, **_SO400M, tflop=0.974, gigabytes=1.715),
    _siglip2("giant", "giant-opt", 384, 7.5, hidden=1536, blocks=40, heads=16,
             tflop=1.388, gigabytes=4.655),
    _c_radio("so400m", "SO400M", **_SO400M, tflop=0.526, gigabytes=1.725),
    _c_radio("h", "H", hidden=1280, blocks=32, heads=16, tflop=0.795, gigabytes=2.607),
    EncoderSpec(
        name="clip-large-336", module=".clip", prefix=1, mean=CLIP_MEAN, std=CLIP_STD,
        hidden=1024, blocks=24, heads=16, tflop=0.382, gigabytes=1.22,
        files=("clip-vit-large-patch14-336",), hub="openai/clip-vit-large-patch14-336",
        licence="MIT (OpenAI CLIP)",
        remote=Remote(
            "clip-large-336", "CLIP ViT-L/14 at 336 px (hub folder)", "MIT (OpenAI CLIP)",
            (
                _clip_336("config.json", 4_757,
                          "51b1c14aabcdf639c4a0370eeda1010b773bbe1df78319c7d0f5882c22ac0ac0"),
                _clip_336("preprocessor_config.json", 316,
                          "d253881f65322dc546df59cf925a408e5538b8ecb5a1b496cdd36af9992686d4"),
                _clip_336("pytorch_model.bin", 1_711_974_081,
                          "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"),
            ),
        ),
    ),
    EncoderSpec(
        name="clip-large", module=".clip", prefix=1, mean=CLIP_MEAN, std=CLIP_STD,
        hidden=1024, blocks=24, heads=16, size=224, tflop=0.162, gigabytes=1.22,
        files=("clip-vit-large-patch14",), hub="openai/clip-vit-large-patch14",
        licence="MIT (OpenAI CLIP)",
    ),
    EncoderSpec(  # of world 2's scenes
        name="tiny-clip-world2", module=".clip", prefix=1, mean=CLIP_MEAN, std=CLIP_STD,
        hidden=96, blocks=4, heads=4, patch=8, size=128, tflop=0.0004, gigabytes=0.002,
        shipped="workflows/tiny/world2/clip.safetensors", stand_in=True,
    ),
    EncoderSpec(  # for tests: random weights only
        name="clip-tiny", module=".clip", prefix=1, mean=CLIP_MEAN, std=CLIP_STD,
        hidden=64, blocks=3, heads=4, patch=8, size=128, tflop=0.0005, gigabytes=0.003,
        stand_in=True,
    ),
)  # fmt: skip

ENCODERS: dict[str, EncoderSpec] = {row.name: row for row in _ROWS}
