"""Budgets of superpixels in training: what caches must have, and the draw of each global batch.

As in MQT (Hu et al. 2024, `get_matry_n`) a model that has seen every budget answers at any. One draw
for a whole global batch, a function of (seed, step), keeps its loss one, on any number of processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...model.projectors import projector_class
from ...pipeline.cache.plan import Plan
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.errors import ConfigError
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.selector import Budget, Selector, require_order
from .keyed_rng import Choices, key_of

LEAST = 4  # superpixels of a drawn budget
MOST = 1.5  # times the natural mean
STEPS = 1 << 20  # of a share in 0..1


@dataclass(frozen=True)
class BudgetDraw:
    """One selector per global batch: with the chance 1/2 none, else n on a log scale, exact or mean.

    natural     mean superpixels of an image
    thresholds  of the cache's order, for means of 1, 2, ...
    """

    seed: int
    natural: float
    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, seed: int, caches: Sequence[RowReader]) -> "BudgetDraw":
        """Of caches with an order."""
        order = caches[0].plan.recipe.order
        assert order is not None, "checked when the caches were opened"
        counts = np.concatenate([cache.counts for cache in caches])
        stored = counts[counts > 0]
        natural = float(stored.mean()) if len(stored) else float(len(order.thresholds))
        return cls(seed, natural, order.thresholds)

    def at(self, step: int) -> Selector | None:
        """The selector of a step, the same on every rank; None: all superpixels."""
        draw = Choices(key_of(self.seed, "budget", step))
        if draw.below(2):
            return None
        share, exact = draw.below(STEPS) / STEPS, bool(draw.below(2))
        low, high = math.log(LEAST), math.log(max(LEAST, MOST * self.natural))
        n = round(math.exp(low + share * (high - low)))
        if exact:
            return Selector(exact=n)
        return Selector(above=self.thresholds[n - 1]) if n <= len(self.thresholds) else None


def require_budget(budget: Budget, projector: str, plan: Plan, cache: Place | None = None) -> None:
    """Refuse what a budget does not go with: ConfigError, PlanMismatchError as `require_order`.

    cache  where it lies, if that is known, for the command that mends it
    """
    if budget.auto:
        return
    if "masks" not in projector_class(projector).needs:
        raise ConfigError(
            f"budget {budget.text}: projector {projector} makes no token of a superpixel, so there is "
            "nothing to select: use budget auto"
        )
    require_order(budget, plan, cache)
