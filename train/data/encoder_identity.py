"""Encoder identity check: refuse caches of another encoder or other weights.

Two files of one architecture, or other blocks of one encoder, give features of one shape: a model
trained on the one answers on the other with noise. The identity is the encoder with its weights and
view, and for projectors that read several maps (`multi`) the blocks and the second encoder.
"""

from collections.abc import Mapping
from typing import Any

from ...model.projectors import projector_class
from ...pipeline.cache.plan import Plan
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, PlanMismatchError
from ...pipeline.precompute.purpose import ON_MEANS, PATCHES, command_for_patches
from ...pipeline.recipe import Recipe
from ...pipeline.store import Place


def features_of(recipe: Recipe, projector: str) -> str:
    """Settings of a precompute recipe that determine the features `projector` reads, as text."""
    config = recipe.features
    words = [config.encoder, str(config.weights), f"view {config.view}", f"{config.size} px"]
    if "multi" in projector_class(projector).needs:
        if config.layers:
            words.append(f"blocks {','.join(map(str, config.layers))}")
        if config.second is not None:
            words.append(f"beside {config.second.encoder} {config.second.weights}")
            words += [f"{config.second.size} px"] if config.second.size else []
    return " ".join(words)


def require_same_features(wanted: str, plan: Plan, projector: str, who: str) -> None:
    """PlanMismatchError unless a cache holds the features `wanted` ("" asks for none).

    who  what was trained or evaluated with them, for the message
    """
    found = features_of(plan.recipe, projector)
    if wanted and found != wanted:
        raise PlanMismatchError(
            f"cache {plan.id[:12]} holds features of {found}; {who} reads {show(wanted, 300)}: make "
            "the cache again with that encoder (--encoder, --encoder-weights, --set features.layers)"
        )


def require_patches(
    projector: str, options: Mapping[str, Any], plan: Plan, cache: Place | None = None
) -> None:
    """ConfigError if a cache is thin and the projector reads single patches with these options.

    cache  where it lies, if that is known, for the command that adds them
    """
    if not plan.thin or not projector_class(projector).reads_patches(options):
        return
    without = ""
    if projector in ON_MEANS:
        without = f"; or do without SSA: --set model.projector.options.{ON_MEANS[projector]} trains on means"
    raise ConfigError(
        f"projector {projector} reads {PATCHES}, which cache {plan.id[:12]} does not hold: it is thin, "
        f"with the mean of each superpixel alone: `{command_for_patches(plan, cache)}` adds them"
        + without
    )
