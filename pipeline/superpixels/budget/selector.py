"""Budgets of tokens: how many of an image's superpixels become visual tokens.

    auto      all of them
    8         the first 8 by the cache's order, exactly
    mean:8    those worth more than a threshold, with which the mean count is 8: an image with much to
              name keeps more, a plain one fewer
    ask:8     the 8 that the question's words are most likely about, of a model with token answers
    drawn     in training: of each global batch another budget, of half of them none

What is left out becomes one more token, the rest: the union of its masks.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from ...display import counted, show
from ...errors import ConfigError, PlanMismatchError
from ...io.settings import Frozen
from ...recipe import OrderConfig

if TYPE_CHECKING:
    from ...cache.plan import Plan
    from ...store import Place

FORMS = "auto, a number, mean:N, ask:N or drawn"
TEXT = re.compile(r"(?:(mean|exact|ask):)?([1-9][0-9]{0,3})")
Number = Annotated[int, Field(ge=1, le=1024)]


@dataclass(frozen=True)
class Selector:
    """The superpixels to keep: the first `exact` by order, or those worth more than `above`."""

    exact: int | None = None
    above: float | None = None

    def kept(self, order: NDArray[np.integer], worth: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(N,) which superpixels stay, at least one, of their order and worth (N,)."""
        chosen = np.zeros(len(order), np.bool_)
        if self.exact is not None:
            chosen[order[: self.exact]] = True
        else:
            assert self.above is not None
            chosen[worth.astype(np.float64) > self.above] = True
            chosen[order[0]] = True
        return chosen


class Budget(Frozen):
    """A budget as recipes and flags name it; none of its numbers: all superpixels.

    exact      superpixels of every image, at most
    mean       superpixels on average of the images that the cache's prior was fitted on
    ask        superpixels of every question, at most, by its words; of answers only
    drawn      of each global batch one, a function of seed and step; with the chance 1/2 it is all
    prior      sha256 of the prior that ranks them, and
    threshold  worth of `mean`: both are put in when a run starts, so that a checkpoint has them
    """

    _later: ClassVar[frozenset[str]] = frozenset({"ask"})

    exact: Number | None = None
    mean: Number | None = None
    ask: Number | None = None
    drawn: bool = False
    prior: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if sum(n is not None for n in (self.exact, self.mean, self.ask)) + self.drawn > 1:
            raise ValueError("exact, mean, ask and drawn exclude each other: give one of them")
        if self.threshold is not None and self.mean is None:
            raise ValueError("threshold is that of `mean`: leave it out")
        return self

    @property
    def auto(self) -> bool:
        """Whether all superpixels stay, always."""
        return not self.drawn and self.exact is None and self.mean is None and self.ask is None

    @property
    def text(self) -> str:
        """As `--budget` takes it."""
        if self.mean is not None:
            return f"mean:{self.mean}"
        if self.ask is not None:
            return f"ask:{self.ask}"
        return "drawn" if self.drawn else "auto" if self.exact is None else str(self.exact)

    def selector(self, order: OrderConfig | None) -> Selector | None:
        """The selector of answers; None: all superpixels, as a model answers that was trained on `drawn`,
        and of which each question takes some (`ask`).

        order  of the cache. Raises ConfigError for a mean that is not below the natural one
        """
        if self.exact is not None:
            return Selector(exact=self.exact)
        if self.mean is None:
            return None
        assert order is not None
        if self.threshold is not None:
            return Selector(above=self.threshold)
        return Selector(above=threshold_of(order, self.mean))

    def settled(self, order: OrderConfig) -> "Budget":
        """With the prior, and the threshold of `mean`. Raises ConfigError as `selector`."""
        found = self.model_copy(update={"prior": digest_of(order)})
        if self.mean is None or self.threshold is not None:
            return found
        return found.model_copy(update={"threshold": threshold_of(order, self.mean)})


AUTO = Budget()


def parse_budget(text: str) -> Budget:
    """From the text of a flag. Raises ConfigError.

    >>> parse_budget("mean:8").mean, parse_budget("8").exact, parse_budget("auto").auto
    (8, 8, True)
    """
    try:
        return Budget.model_validate(_fields(text))
    except ValueError:
        raise ConfigError(f"budget={show(text)}: it is {FORMS}, with numbers up to 1024") from None


def _fields(value: Any) -> Any:
    """Fields of a budget written as a text or a number; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    text = str(value)
    if text in ("auto", "drawn"):
        return {"drawn": text == "drawn"}
    if (found := TEXT.fullmatch(text)) is None:
        raise ValueError(f"it is {FORMS}")
    return {found[1] or "exact": int(found[2])}


BudgetField = Annotated[Budget, BeforeValidator(_fields)]


def threshold_of(order: OrderConfig, mean: int) -> float:
    """The calibrated worth. Raises ConfigError for a mean that is not below the natural one."""
    if mean > len(order.thresholds):
        raise ConfigError(
            f"budget mean:{mean}: the images that the prior was fitted on have "
            f"{counted(len(order.thresholds), 'superpixel')} on average or hardly more: use auto, or a mean "
            f"up to {len(order.thresholds)}"
        )
    return order.thresholds[mean - 1]


def digest_of(order: OrderConfig) -> str:
    """sha256 of a prior and its thresholds, hex. Its prior of shapes ranks nothing in its own cache."""
    own = order.model_copy(update={"shape": ""})
    return hashlib.sha256(own.model_dump_json().encode()).hexdigest()


def require_order(budget: Budget, plan: "Plan", cache: "Place | None" = None) -> None:
    """Refuse a cache that a budget cannot be met with: ConfigError without an order, PlanMismatchError
    with that of another prior.
    """
    if budget.auto or budget.ask is not None:
        return
    where = "CACHE" if cache is None else show(str(cache), 300)
    if plan.recipe.order is None:
        raise ConfigError(
            f"budget {budget.text}: cache {plan.id[:12]} has no order of its superpixels: make it with "
            f"`svp cache order {where}`, of another split than train with --prior TRAINCACHE"
        )
    if budget.prior and budget.prior != digest_of(plan.recipe.order):
        raise PlanMismatchError(
            f"cache {plan.id[:12]} has an order by another prior than the model was trained with: "
            f"make it again: `svp cache drop {where} order`, then `svp cache order {where} --prior "
            "TRAINCACHE`"
        )
