"""Evaluate a published GLaMM or LISA folder as it is.

CLIP ViT-L/14 through CLIP's own preprocessing (recipe view `clip`), hidden state -2 without CLS, the
checkpoint's `mm_projector`, its language model, its L-P projector and the mask decoder of its
grounding encoder. Sources: mbzuai-oryx/groundingLMM model/GLaMM.py and
model/llava/model/multimodal_encoder/clip_encoder.py; dvlab-research/LISA model/LISA.py, train_ds.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...model.conversion import Imported, build_imported, open_ris_checkpoint
from ...model.conversion.key_mapping import LAYOUTS, LLAMA_VOCAB, Layout
from ...model.projectors import Projector, build_projector
from ...pipeline.cache.plan import Plan
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, PlanMismatchError, WeightsError
from ...pipeline.fetch.catalogue import CHECKPOINTS
from ...pipeline.sam.build import build_sam
from ...pipeline.weights.file_checks import read_json
from ...pipeline.weights.fill_module import fill
from ...pipeline.weights.load import weights_digest
from ...pipeline.weights.model_config import MAX_CONFIG, check_config
from ...pipeline.weights.reference import WeightsRef
from ..data.encoder_identity import require_patches
from ..data.sam_identity import require_decoder, require_embedding
from ..data.tokenizer import load_vocabulary
from ..recipe import (
    ModelConfig,
    ProjectorConfig,
    StageConfig,
    TrainRecipe,
    VisionConfig,
    vision_of,
)
from .named_model import published_folder

if TYPE_CHECKING:
    from .trained import Trained

TOWERS = ("openai/clip-vit-large-patch14-336", "openai/clip-vit-large-patch14")
ENCODERS = {"glamm": ("clip-large-336", 336), "lisa": ("clip-large", 224)}


@dataclass(frozen=True)
class Published:
    """A folder in one of the published layouts, its weights not read yet.

    digest  sha256 of its weights, as `weights_digest` names them
    vision  CLIP as the checkpoint's authors ran it
    tower   what its config.json calls that, "" if nothing
    """

    folder: Path
    digest: str
    layout: Layout
    vision: VisionConfig
    tower: str = ""

    @property
    def name(self) -> str:
        """Name of the results."""
        parts = self.folder.resolve().parts
        if "snapshots" in parts:  # models--OWNER--NAME/snapshots/COMMIT of the hub's cache
            return parts[parts.index("snapshots") - 1].removeprefix("models--").split("--")[-1]
        return parts[-1]

    @property
    def digests(self) -> dict[str, str]:
        """Digests that name the results of this model."""
        return {"checkpoint": self.digest, "published": f"{self.name} ({self.layout.name})"}


def find_published(given: str) -> Published:
    """The folder `given`, also in the weight folders, or `hub:OWNER/NAME` in the hub's cache.

    Raises MissingError, ConfigError (no hub name), WeightsError (neither GLaMM nor LISA).
    """
    folder = published_folder(given)
    check_config(folder, {})
    raw = read_json(folder / "config.json", MAX_CONFIG)
    rows = {LLAMA_VOCAB + len(layout.tokens): layout for layout in LAYOUTS.values()}
    where = show(str(folder / "config.json"), 200)
    size = raw.get("vocab_size")
    if (layout := rows.get(size) if isinstance(size, int) else None) is None:
        wanted = " or ".join(f"{n:,} ({layout.name})" for n, layout in rows.items())
        raise WeightsError(
            f"{where}: vocab_size {show(size)}, a published checkpoint has "
            f"{wanted}: give a GLaMM or LISA folder; svp's own models are named by --checkpoint"
        )
    for field, value in (("mm_vision_select_layer", -2), ("mm_vision_select_feature", "patch")):
        if raw.get(field, value) != value:
            raise WeightsError(f"{where}: {field} {show(raw[field])}: this svp reads {value} only")
    tower = raw.get("mm_vision_tower") or raw.get("vision_tower") or ""
    if not isinstance(tower, str) or not _is_clip(tower):
        raise WeightsError(
            f"{where}: mm_vision_tower {show(tower)}: this svp sees through CLIP ViT-L/14 only "
            f"({' or '.join(TOWERS)}): name that one there if the model was trained on it"
        )
    encoder, size = ENCODERS[layout.name]
    if "clip-vit-large-patch14" in tower:
        encoder, size = ENCODERS["glamm" if "336" in tower else "lisa"]
    vision = VisionConfig(encoder=encoder, view="clip", size=size)
    if (named := folder.resolve().name) in CHECKPOINTS and layout.name not in named.lower():
        raise ConfigError(
            f"{where}: vocab_size {raw['vocab_size']} is that of layout {layout.name}, the folder is called "
            f"{named}: give the folder of {CHECKPOINTS[named].repository}, or rename this one"
        )
    return Published(folder, weights_digest(folder), layout, vision, tower)


def open_published(found: Published, plan: Plan) -> "Trained":
    """The model on caches (or live readers) with `plan`: on the CPU, in evaluation mode.

    The language model keeps the file's precision, float32 or else bfloat16. Raises
    PlanMismatchError (a cache that does not show what CLIP was shown), WeightsError, MissingError.
    """
    from .trained import Trained

    require_view(found, plan)
    imported = open_ris_checkpoint(found.folder, layout=found.layout.name, keep=("mm_projector",))
    half = imported.lm["model.norm.weight"].dtype != torch.float32
    projector, config = _projector(found, imported, plan)
    dtype = torch.bfloat16 if half else torch.float32
    model = build_imported(imported, projector, dtype=dtype)
    vocab = load_vocabulary(found.folder, imported.layout)
    require_embedding(model, plan)
    model.requires_grad_(False).eval()
    recipe = TrainRecipe(
        name="published",
        model=ModelConfig(
            init=WeightsRef("sha256", found.digest),
            vision=vision_of(plan.recipe.features),
            projector=config,
            dtype="bfloat16" if half else "float32",
        ),
        stages=(StageConfig(name="published", steps=1, warmup=0),),
    )
    require_decoder(recipe, plan)
    return Trained(model, vocab, recipe, found.digests)


def require_view(found: Published, plan: Plan) -> None:
    """Refuse a cache whose features are not those the checkpoint was trained on.

    `clip-tiny` stands in for CLIP in tests, where the projector's width fits it.
    """
    require_patches("mlp", {}, plan)
    want, have = found.vision, plan.recipe.features
    if have.encoder == "clip-tiny" and have.view == want.view:
        return
    if (want.encoder, want.view, want.size) != (have.encoder, have.view, have.size):
        raise PlanMismatchError(
            f"cache {plan.id[:12]} was made with {have.encoder}, view {have.view}, {have.size} px; "
            f"{show(found.name)} was trained on {want.encoder}, view {want.view}, {want.size} px: "
            f"make a cache with `svp precompute --encoder {want.encoder} --set features.view=clip "
            "--superpixels slic --sam-model vit_h`, or name none: the photographs are then read live"
        )


def own_sam(found: Published) -> Any:
    """SAM ViT-H as the checkpoint holds it, on the CPU, float32.

    Raises WeightsError if it holds no image encoder.
    """
    imported = open_ris_checkpoint(
        found.folder, layout=found.layout.name, keep=("sam_image_encoder",)
    )
    if not imported.sam_image_encoder:
        raise WeightsError(
            f"{show(str(found.folder), 200)}: holds no SAM image encoder: give SAM ViT-H with "
            "--sam-weights PATH, without --own-sam"
        )
    sam = build_sam("vit_h")
    for part in ("image_encoder", "mask_decoder", "prompt_encoder"):
        tensors = getattr(imported, "sam_image_encoder" if part == "image_encoder" else part)
        fill(getattr(sam, part), tensors, f"{found.layout.sam}.{part}")
    return sam


def _projector(
    found: Published, imported: Imported, plan: Plan
) -> tuple[Projector, ProjectorConfig]:
    """The checkpoint's `mm_projector`: LISA's one linear, or GLaMM's two with a GELU between."""
    tensors = imported.mm_projector
    if not tensors:
        raise WeightsError(
            f"{show(str(found.folder), 200)}: holds no mm_projector, without which it sees "
            "nothing: get the folder as it was published"
        )
    linear = "weight" in tensors
    width = tensors["weight" if linear else "0.weight"].shape[1]
    if width != plan.channels:
        raise PlanMismatchError(
            f"{show(found.name)}: mm_projector reads {counted(width, 'channel')}, the features of "
            f"cache {plan.id[:12]} have {plan.channels}: use {found.vision.encoder}"
        )
    options = {"layers": 1} if linear else {}
    made = build_projector(
        "mlp", in_dim=width, llm_dim=imported.shape.hidden, grid=plan.grid, **options
    )
    named = {f"0.{n}": t for n, t in tensors.items()} if linear else tensors
    fill(made, type(made).from_original(named), "mm_projector")
    return made, ProjectorConfig(name="mlp", options=dict(options))


def _is_clip(tower: str) -> bool:
    """Whether a config.json names CLIP ViT-L/14; a folder of its author's, or none, may be it."""
    folder = tower.startswith(("/", ".", "~")) or not tower
    return folder or "clip-vit-large-patch14" in tower
