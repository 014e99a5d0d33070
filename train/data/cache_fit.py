"""Checks that a cache fits the model of a recipe, before anything is read that takes minutes."""

import torch

from ...model.conversion.llama_shape import LlamaShape
from ...model.projectors import Projector, build_projector, projector_class
from ...model.projectors.svp.mask_batches import require_stored
from ...pipeline.cache.plan import Plan
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, PlanMismatchError
from ...pipeline.precompute.purpose import command_for, lacks
from ...pipeline.store import Place
from ..recipe import TrainRecipe
from .encoder_identity import require_patches
from .sam_identity import require_decoder
from .shipped_language import shipped_config


def require_cache(
    recipe: TrainRecipe, plan: Plan, cache: Place | None = None, *, decoder: bool = True
) -> None:
    """Refuse a cache that the recipe's model cannot read, with the command that makes the right one.

    cache    where it lies, if that is known: the command is then the one it was made by, changed
    decoder  False: no mask is decoded, so that no SAM embedding is read
    """
    want, have = recipe.model.vision, plan.recipe.features
    name = recipe.model.projector.name
    if (want.names, want.view, want.size) != (have.name, have.view, have.size):
        features = {"encoder": want.names, "view": want.view, "size": str(want.size)}
        second = f" --set model.vision.second={have.second.encoder}" if have.second else ""
        shipped = " (scenes of world 2: --recipe world2.yaml)" * (have.name == "tiny-world2")
        raise PlanMismatchError(
            f"cache {plan.id[:12]} was made with {have.name}, view {have.view}, {have.size} px; "
            f"the recipe {show(recipe.name)} (digest {recipe.digest()[:12]}) wants {want.names}, "
            f"view {want.view}, {want.size} px: add what it reads with "
            f"`{command_for(plan, name, cache, features=features)}`, or take a recipe for this "
            f"cache with --set model.vision.encoder={have.encoder} "
            f"--set model.vision.view={have.view} --set model.vision.size={have.size}{second}{shipped}"
        )
    require_decoder(recipe, plan)
    options = recipe.model.projector.options
    if options.get("token_answers") and have.view != "squash":
        raise ConfigError(
            f"token_answers: they are learned on masks of the whole photograph, view {have.view} of the "
            "encoder shows another part: leave them out, or take a cache made with view squash"
        )
    require_patches(name, options, plan, cache)
    if name == "svp":
        mode, budget = options.get("mask_budget_mode", "per_mask"), options.get("mask_budget")
        wanted = budget if isinstance(budget, int) else None
        require_stored(str(mode), wanted, plan.recipe.sspe.budget)
    # Maps side by side that the projector reads as `multi`: fusion says how many, others four.
    given = recipe.model.projector.options.get("sources", 4)
    sources = given if isinstance(given, int) else 4
    stored = (
        plan.recipe if decoder else plan.recipe.model_copy(update={"store_sam_embeddings": True})
    )
    if missing := lacks(stored, projector_class(name).needs, sources):
        raise ConfigError(
            f"training projector {name} reads {', '.join(missing)}, which cache {plan.id[:12]} "
            f"does not hold: add it with `{command_for(plan, name, cache)}`"
        )
    _require_widths(recipe, plan)


def _require_widths(recipe: TrainRecipe, plan: Plan) -> None:
    """ConfigError if a second encoder's map has another width than the projector is built for."""
    projector = recipe.model.projector.name
    if "multi" not in projector_class(projector).needs:
        return
    made = outline_projector(recipe, plan.channels, plan.grid, llm_dim=64)
    if made.multi_dim == plan.multi_channels:
        return
    last = plan.multi_channels - plan.channels * (plan.blocks - 1)
    remedy = f"--set model.projector.options.last_dim={last}" if projector == "fusion" else (
        "take a cache whose second encoder has the width of the first, or projector fusion"
    )  # fmt: skip
    raise ConfigError(
        f"training projector {projector} reads maps of {counted(made.multi_dim, 'channel')} together, cache "
        f"{plan.id[:12]} ({plan.recipe.features.name}) holds {plan.multi_channels}: {remedy}"
    )


def outline_projector(
    recipe: TrainRecipe, channels: int, grid: tuple[int, int], llm_dim: int | None = None
) -> Projector:
    """The recipe's projector, built without memory.

    llm_dim  D; None: that of the shipped language model, else what the recipe's shape says
    """
    if llm_dim is None:
        shipped = recipe.model.init.kind == "shipped"
        llm_dim = shipped_config().hidden_size if shipped else llama_shape(recipe).hidden
    with torch.device("meta"):
        return build_projector(
            recipe.model.projector.name, in_dim=channels, llm_dim=llm_dim, grid=grid,
            **dict(recipe.model.projector.options),
        )  # fmt: skip


def llama_shape(recipe: TrainRecipe, vocab: int | None = None) -> LlamaShape:
    """The recipe's `model.shape` over LLaMA-7B's. Raises ConfigError for a field it has not."""
    fields = {"vocab": vocab} if vocab else {}
    try:
        values = {n: v if n in ("eps", "theta") else int(v) for n, v in recipe.model.shape.items()}
        return LlamaShape(**{**values, **fields})  # type: ignore[arg-type]
    except TypeError:
        allowed = ", ".join(LlamaShape.__slots__)
        raise ConfigError(
            f"model.shape={show(recipe.model.shape)}: allowed are {allowed}"
        ) from None
