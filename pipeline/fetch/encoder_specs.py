"""Encoder specifications: one row per vision encoder, read by all other modules.

Recipes, options, cost model, weight search, downloads and benchmarks read `ENCODERS`. A new encoder
is one row here and one module with a function `family(spec, size)` (`encoders.backbone.Family`).
Plain data: the command line reads this without torch, numpy or pydantic.
"""

from dataclasses import dataclass
from typing import Any

from .published import META, Remote, RemoteFile

CLIP_336 = (
    "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/"
    "ce19dc912ca5cd21c8a653c79e251e808ccabcd1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder.

    module     builds it: a module of this package (".dinov2") or of another ("my_package.encoder")
    hidden     channels C of its patch features
    blocks     transformer blocks
    heads      attention heads
    patch      side of a patch, pixels
    prefix     tokens before those of the patches: CLS and registers
    size       side of its usual square view, pixels
    tflop      TFLOP of one view of `size`: 2 per multiply-add, attention included
    gigabytes  of its weights in float32
    files      names of weight files or folders to look for
    hub        its repository on the Hugging Face hub, "" for none
    access     what a user must do before the hub hands them out, "" for nothing
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
    size: int = 336
    tflop: float
    gigabytes: float
    files: tuple[str, ...] = ()
    hub: str = ""
    access: str = ""
    remote: Remote | None = None
    shipped: str = ""
    stand_in: bool = False

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


def _dinov3(name: str, code: str, **shape: Any) -> EncoderSpec:
    """DINOv3 trained on LVD-1689M, at the view that gives 24 x 24 patches."""
    folder = f"dinov3-{code}16-pretrain-lvd1689m"
    hub = f"facebook/{folder}"
    access = (
        f"The weights are gated: accept the DINOv3 License at https://huggingface.co/{hub}, then "
        "`hf auth login`; a request can be refused"
    )
    return EncoderSpec(
        name=f"dinov3-{name}", module=".dinov3", patch=16, size=384,
        files=(folder,), hub=hub, access=access, **shape,
    )  # fmt: skip


_ROWS = (
    EncoderSpec(
        name="tiny", module=".tiny",
        hidden=96, blocks=6, heads=4, patch=8, size=128, tflop=0.0005, gigabytes=0.003,
        shipped="workflows/tiny/dinov2.safetensors", stand_in=True,
    ),
    EncoderSpec(
        name="dinov2-small", module=".dinov2",
        hidden=384, blocks=12, heads=6, tflop=0.031, gigabytes=0.09,
        files=("dinov2-with-registers-small", "dinov2_vits14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-small", remote=_dinov2("vits14", 88_300_000),
    ),
    EncoderSpec(
        name="dinov2-base", module=".dinov2",
        hidden=768, blocks=12, heads=12, tflop=0.113, gigabytes=0.35,
        files=("dinov2-with-registers-base", "dinov2_vitb14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-base", remote=_dinov2("vitb14", 346_400_000),
    ),
    EncoderSpec(
        name="dinov2-large", module=".dinov2",
        hidden=1024, blocks=24, heads=16, tflop=0.386, gigabytes=1.22,
        files=("dinov2-with-registers-large", "dinov2_vitl14_reg4_pretrain.pth"),
        hub="facebook/dinov2-with-registers-large",
        remote=_dinov2("vitl14", 1_217_607_321, exact=True),
    ),
    _dinov3("small", "vits", hidden=384, blocks=12, heads=6, tflop=0.031, gigabytes=0.086),
    _dinov3("base", "vitb", hidden=768, blocks=12, heads=12, tflop=0.111, gigabytes=0.343),
    _dinov3("large", "vitl", hidden=1024, blocks=24, heads=16, tflop=0.385, gigabytes=1.21),
    EncoderSpec(
        name="clip-large-336", module=".clip", prefix=1,
        hidden=1024, blocks=24, heads=16, tflop=0.382, gigabytes=1.22,
        files=("clip-vit-large-patch14-336",), hub="openai/clip-vit-large-patch14-336",
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
        name="clip-large", module=".clip", prefix=1,
        hidden=1024, blocks=24, heads=16, size=224, tflop=0.162, gigabytes=1.22,
        files=("clip-vit-large-patch14",), hub="openai/clip-vit-large-patch14",
    ),
    EncoderSpec(  # for tests: random weights only
        name="clip-tiny", module=".clip", prefix=1,
        hidden=64, blocks=3, heads=4, patch=8, size=128, tflop=0.0005, gigabytes=0.003,
        stand_in=True,
    ),
)  # fmt: skip

ENCODERS: dict[str, EncoderSpec] = {row.name: row for row in _ROWS}
