"""SAM identity check: refuse a cache of another SAM than the mask decoder's.

vit_b, vit_l, vit_h and MobileSAM all give (256,64,64) embeddings, so a decoder tuned on one of them
accepts those of another and answers with noise. The identity is SAM's type and its weights, as the
cache's recipe names them.
"""

from typing import TYPE_CHECKING

from ...pipeline.cache.plan import Plan
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, PlanMismatchError
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.recipe import Recipe, SuperpixelConfig
from ...pipeline.weights.digests import published
from ...pipeline.weights.locate import weight_files
from ...pipeline.weights.reference import SHIPPED
from ..recipe import TrainRecipe

if TYPE_CHECKING:
    from ...model.mask_head import MaskHead
    from ...model.ris import RisModel

CHECKPOINTS_SAM = "vit_h"  # GLaMM's and LISA's decoders were tuned on its embeddings


def identity(plan: Plan) -> str:
    """Type and weights of the SAM whose embeddings a cache holds, "" if it holds none."""
    return "" if plan.sam is None else sam_of(plan.recipe)


def sam_of(recipe: Recipe) -> str:
    """Type and weights of the SAM that a precompute recipe names."""
    return f"{recipe.superpixels.model} {recipe.superpixels.weights}"


def require_decoder(recipe: TrainRecipe, plan: Plan) -> None:
    """PlanMismatchError unless the recipe's mask decoder was tuned on embeddings as this cache's.

    A random decoder was tuned on none and learns any. A GLaMM or LISA checkpoint does not name the
    file its SAM came from, so of it the type alone is compared; see `doubt`.
    """
    if plan.sam is None:
        return
    decoder, init = recipe.model.sam_decoder, recipe.model.init
    have = plan.recipe.superpixels
    ours = {"tiny"}  # whose shipped weights the decoder can be
    if decoder.kind == "none" and init.kind == "shipped":
        decoder = SHIPPED
    elif decoder.kind == "shipped":
        ours = {name for name, row in SAMS.items() if row.shipped}
    if decoder.kind == "none" and init.kind == "svp":
        return  # an export names its SAM itself: `assemble` compares it
    if decoder.kind == "none":
        if have.model != CHECKPOINTS_SAM:
            raise PlanMismatchError(
                f"cache {plan.id[:12]} holds embeddings of SAM {have.model}, but the mask decoder "
                f"of the checkpoint named by --init was tuned on those of SAM {CHECKPOINTS_SAM}: "
                f"make the cache again with `svp precompute --sam-model {CHECKPOINTS_SAM}` (with "
                f"--superpixels slic or mobile_sam it stores them too){_another(have)}"
            )
        return
    if decoder.kind == "shipped" and (have.model not in ours or have.weights != SHIPPED):
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds embeddings of SAM {identity(plan)}, but the mask decoder is "
            "the shipped tiny one: make the cache with the tiny SAM (--size tiny), or name the "
            f"decoder with --sam-decoder {_decoder_for(have)}"
        )
    if decoder.kind == "sha256" and SAMS[have.model].package:
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds embeddings of SAM {have.model}, whose own decoder reads more "
            "than them: give --sam-decoder random, which trains over them"
        )
    if decoder.kind == "sha256" and have.weights != decoder:
        if have.weights.kind in ("shipped", "random"):
            raise PlanMismatchError(
                f"cache {plan.id[:12]} holds embeddings of SAM {identity(plan)}, which is no file: "
                f"give --sam-decoder {have.weights}, or make the cache again with `svp precompute "
                "--sam-weights FILE` and the file of --sam-decoder"
            )
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds embeddings of SAM {identity(plan)}, but --sam-decoder is "
            f"{decoder}: give the file the cache was made with, or make the cache again with "
            "`svp precompute --sam-weights FILE` and this file (a SAM is known by the digest of its "
            "file: the same values in another file, such as a hub folder, count as another)"
        )


def _another(have: SuperpixelConfig) -> str:
    """The decoder that may stand in for a checkpoint's; none where its prompts are narrower."""
    if SAMS[have.model].channels != SAMS[CHECKPOINTS_SAM].channels:
        return ""
    return f", or start from another decoder with --sam-decoder {_decoder_for(have)}"


def _decoder_for(have: SuperpixelConfig) -> str:
    """Value of --sam-decoder for embeddings of this SAM."""
    if SAMS[have.model].package:  # its decoder is not the published one
        return "random"
    if have.weights.kind == "sha256":
        return f"FILE, the {have.model} file the cache was made with"
    return str(have.weights)


def doubt(recipe: TrainRecipe, plan: Plan) -> str:
    """Warning about a cache whose SAM may not match the mask decoder of a checkpoint, or ""."""
    own = recipe.model.init.kind in ("shipped", "svp")
    brings = recipe.model.sam_decoder.kind == "none" and not own
    weights = str(plan.recipe.superpixels.weights)
    files = [name for name in weight_files(CHECKPOINTS_SAM) if name in published()]
    if not brings or plan.sam is None or weights in {published()[name].digest for name in files}:
        return ""
    return (
        f"note: cache {plan.id[:12]} was made with SAM {identity(plan)[:80]}, which is not the "
        f"published {files[0]}: the checkpoint's mask decoder was tuned on that one"
    )


def require_same_sam(wanted: str, plan: Plan, who: str) -> None:
    """PlanMismatchError unless a cache was made with the SAM `wanted` ("" asks for none).

    who  what was trained or evaluated with it, for the message
    """
    if wanted and identity(plan) not in ("", wanted):
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds embeddings of SAM {identity(plan)}, {who} uses SAM "
            f"{show(wanted, 100)}: make the cache again with that SAM (--sam-model, --sam-weights)"
        )


def replace_decoder(model: "RisModel", head: "MaskHead") -> None:
    """Another SAM's decoder in the place of the checkpoint's. Raises ConfigError."""
    if head.width != model.mask_head.width:
        raise ConfigError(
            f"--sam-decoder reads prompts of {head.width} numbers, the model's L-P projector gives "
            f"{model.mask_head.width}: a decoder of another SAM family cannot be put in; start from a "
            "language model (--lm), whose L-P projector is new"
        )
    model.mask_head = head


def require_embedding(model: "RisModel", plan: Plan, *, decoder: bool = True) -> None:
    """The cache must hold SAM embeddings of the shape that the mask decoder reads, if it is used."""
    head = model.mask_head
    side = tuple(head.prompt_encoder.image_embedding_size)
    if decoder and plan.sam != (head.width, *side):
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds SAM embeddings {plan.sam} of "
            f"{plan.recipe.superpixels.model}; the recipe's mask decoder wants "
            f"{(head.width, *side)}: use a cache and a decoder of one SAM"
        )
