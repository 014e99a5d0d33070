"""The table of SAMs: one row says all that the package knows of a SAM by name.

Recipes, options, cost model, weight search, downloads and benchmarks read `SAMS`. A new size of the
published ViT is one row here; another architecture is a row and one module with a function
`family(spec)` (`sam.build.Family`). Plain data, as `encoder_specs`.
"""

from dataclasses import dataclass

from .published import META, Remote, RemoteFile

MOBILE = (
    "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
    "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamSpec:
    """One SAM.

    module        builds it: a module of `pipeline.sam` (".official") or of another package
    source        `superpixels.source` of a recipe whose superpixels it cuts
    width         channels of its plain ViT encoder; 0: another encoder, known by `anchor`
    depth         blocks of the ViT
    heads         attention heads of a block
    global_blocks those that attend to the whole image, counted from 0
    anchor        name of a tensor that its files alone have; "": known by width and depth
    image_size    side of its square input, pixels
    patch         pixels per side of one cell of its embedding
    channels      C of its embedding
    tflop         TFLOP of one encoder pass, by torch's FlopCounter: 2 per multiply-add
    prompt_gflop  GFLOP of one decoder prompt, counted likewise
    gigabytes     of its weights in float32
    package       the one `superpixels.package` that runs it; "": any that knows its module
    hub           repository of the hub, in the layout of transformers
    terms         page on which its licence must be accepted first; "": none
    packages      whose versions decide bits, beside the recipe's `superpixels.package`
    files         names of weight files to look for
    remote        what `svp fetch` brings, None if nothing
    shipped       weights in this package, a path relative to it; "" for none
    stand_in      of no use on photographs
    """

    name: str
    module: str = ".official"
    source: str = "sam"
    width: int = 0
    depth: int = 0
    heads: int = 0
    global_blocks: tuple[int, ...] = ()
    anchor: str = ""
    image_size: int = 1024
    patch: int = 16
    channels: int = 256
    tflop: float
    prompt_gflop: float = 3.62
    gigabytes: float
    package: str = ""
    hub: str = ""
    terms: str = ""
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    remote: Remote | None = None
    shipped: str = ""
    stand_in: bool = False

    @property
    def embedding(self) -> tuple[int, int, int]:
        """(C,h,w) of the embedding of one image."""
        side = self.image_size // self.patch
        return self.channels, side, side


def _official(name: str, code: str, size: int, sha256: str) -> Remote:
    path = f"sam_{name}_{code}.pth"
    file = RemoteFile(f"{META}/segment_anything/{path}", path, size, f"sha256:{sha256}")
    return Remote(name, f"Segment Anything, {name}", "Apache-2.0", (file,))


# Shapes of the ViTs: segment_anything/build_sam.py.
_ROWS = (
    SamSpec(
        name="tiny", module=".tiny",
        width=96, depth=5, heads=4, image_size=128, patch=8, channels=64,
        tflop=0.0004, prompt_gflop=0.0192, gigabytes=0.003,
        shipped="workflows/tiny/sam.safetensors", stand_in=True,
    ),
    SamSpec(  # of world 2's scenes; of one shape with the one above, so named by recipes alone
        name="tiny-world2", module=".tiny",
        width=96, depth=5, heads=4, image_size=128, patch=8, channels=64,
        tflop=0.0004, prompt_gflop=0.0192, gigabytes=0.003,
        shipped="workflows/tiny/world2/sam.safetensors", stand_in=True,
    ),
    SamSpec(
        name="vit_b", width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11),
        tflop=0.97, gigabytes=0.36,
        files=("sam_vit_b_01ec64.pth", "sam_vit_b.safetensors"),
        remote=_official(
            "vit_b", "01ec64", 375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
    ),
    SamSpec(
        name="vit_l", width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23),
        tflop=2.99, gigabytes=1.19,
        files=("sam_vit_l_0b3195.pth", "sam_vit_l.safetensors"),
        remote=_official(
            "vit_l", "0b3195", 1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
    ),
    SamSpec(
        name="vit_h", width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31),
        tflop=5.96, gigabytes=2.45,
        files=("sam_vit_h_4b8939.pth", "sam_vit_h.safetensors"),
        remote=_official(
            "vit_h", "4b8939", 2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    ),
    SamSpec(
        name="vit_t", module=".mobile_sam", source="mobile_sam",
        anchor="image_encoder.patch_embed.seq.0.c.weight",
        tflop=0.078, gigabytes=0.04, packages=("timm",),
        files=("mobile_sam.pt", "mobile_sam.safetensors"),
        remote=Remote(
            "vit_t", "MobileSAM", "Apache-2.0",
            (
                RemoteFile(
                    MOBILE, "mobile_sam.pt", 40_728_226,
                    "sha256:6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
                ),
            ),
        ),
    ),
    SamSpec(  # of world 2's scenes; its file names its tensors as MobileSAM's does
        name="tiny-mobile-world2", module=".tiny_mobile", source="mobile_sam",
        anchor="image_encoder.patch_embed.seq.0.c.weight",
        image_size=128, patch=8, channels=64,
        tflop=0.00016, prompt_gflop=0.0192, gigabytes=0.002, packages=("timm",),
        shipped="workflows/tiny/world2/mobile_sam.safetensors", stand_in=True,
    ),
    # Through transformers, any published size of a family: the figures are those of the largest.
    SamSpec(
        name="sam2", module=".hub_models", package="transformers",
        anchor="vision_encoder.backbone.blocks.0.attn.qkv.weight",
        tflop=1.82, gigabytes=0.87, hub="facebook/sam2.1-hiera-large",
    ),
    SamSpec(
        name="sam3", module=".hub_models", package="transformers",
        image_size=1008, patch=14, anchor="tracker_model.no_memory_embedding",
        tflop=5.62, prompt_gflop=4.59, gigabytes=1.83, hub="facebook/sam3",
        terms="https://huggingface.co/facebook/sam3 (SAM License)",
    ),
    SamSpec(
        name="edgetam", module=".hub_models", package="transformers", packages=("timm",),
        anchor="vision_encoder.backbone.timm_model.stem.conv1.c.weight",
        tflop=0.09, gigabytes=0.04, hub="yonigozlan/EdgeTAM-hf",
    ),
    SamSpec(
        name="sam_hq", module=".hub_models", package="transformers",
        anchor="mask_decoder.hq_token.weight",
        tflop=5.96, gigabytes=2.57, hub="syscv-community/sam-hq-vit-huge",
    ),
)  # fmt: skip

SAMS: dict[str, SamSpec] = {row.name: row for row in _ROWS}
# Sources of superpixels that prompt a SAM, and the one that `--superpixels` means by each.
USUAL_SAM: dict[str, str] = {"sam": "vit_h", "mobile_sam": "vit_t"}
