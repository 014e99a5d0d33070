"""`svp cache order`: fit a prior of worth on a training split, and store the superpixels' order."""

from dataclasses import dataclass, field

import numpy as np

from ...pipeline.cache.layers import ORDER
from ...pipeline.cache.order_layer import make_order, ordered, prior_of
from ...pipeline.cache.plan import Plan, all_plans, chosen_view
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.worth import Prior, thresholds
from ...pipeline.display import Report, counted, show
from ...pipeline.errors import CacheError, ConfigError, PlanMismatchError
from ...pipeline.recipe import OrderConfig
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.selector import digest_of
from ..options import DataRequest
from .cache_budget import annotated

EVALUATED = ("val", "test")  # beginnings of names of splits, as testA and testB


@dataclass(frozen=True, kw_only=True)
class OrderRequest:
    """Options of `svp cache order`.

    data    of the cache's split; None: what the cache was made from
    prior   a cache with an order, whose prior and thresholds are taken; None: they are fitted
    sample  images that the prior is fitted on, at most
    """

    cache: Place
    data: DataRequest = field(default_factory=DataRequest)
    prior: Place | None = None
    sample: int = 2000


@dataclass(frozen=True)
class OrderReport(Report):
    """Report of `svp cache order`.

    fitted      images that the prior was fitted on now, 0 if it was there
    thresholds  worth above which a superpixel is kept, for mean counts of 1, 2, ...
    """

    cache: str
    layer: str
    images: int
    fitted: int
    thresholds: tuple[float, ...]

    def lines(self) -> list[str]:
        came = f"fitted on {counted(self.fitted, 'image')}" if self.fitted else "taken as it was"
        few = ", ".join(
            f"{n}: {limit:.3f}"
            for n, limit in enumerate(self.thresholds, 1)
            if n in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
        )
        return [
            f"cache {self.cache[:12]}: {self.layer}, {counted(self.images, 'image')}",
            f"prior {came}; worth kept for a mean of so many tokens: {few}",
        ]


def order_cache(request: OrderRequest) -> OrderReport:
    """Make or finish the layer. Raises MissingError, CacheError, ConfigError, DataError."""
    view, fitted = chosen_view(request.cache, _whole), 0
    base = Plan.load(request.cache, view)
    known = _known(request.cache, base)
    if known is not None and known.recipe.order is not None:
        order = known.recipe.order
        if request.prior is not None and digest_of(prior_of(request.prior)) != digest_of(order):
            raise PlanMismatchError(
                f"{show(str(request.cache), 300)} has an order by another prior than "
                f"{show(str(request.prior), 300)}: delete it first with `svp cache drop "
                f"{show(str(request.cache), 300)} order`"
            )
    elif request.prior is not None:
        order = prior_of(request.prior)
    else:
        order, fitted = _fitted(request, view)
    if Prior.parse(order.prior).channels != base.channels:
        raise PlanMismatchError(
            f"{show(str(request.prior), 300)}: its prior reads features of "
            f"{counted(Prior.parse(order.prior).channels, 'channel')}, those of "
            f"{show(str(request.cache), 300)} have {base.channels}: take a cache of the same encoder"
        )
    plan = known or ordered(base, order)
    make_order(request.cache, view, plan)
    layer = plan.layer(ORDER)
    return OrderReport(plan.id, layer.folder, len(plan.images), fitted, order.thresholds)


def _whole(plan: Plan) -> None:
    """Training reads SAM's embeddings, so the plan to add to is one that has them, if there is one."""
    if plan.sam is None or plan.recipe.order is not None:
        raise CacheError("another plan is better")


def _known(cache: Place, base: Plan) -> Plan | None:
    """The plan with an order of this one's superpixels and features, made or begun."""
    for plan in all_plans(cache).values():
        order = plan.recipe.order
        if order and ordered(base, order).layer(ORDER).needs == plan.layer(ORDER).needs:
            return plan
    return None


def _fitted(request: OrderRequest, view: str) -> tuple[OrderConfig, int]:
    """Prior and thresholds of the annotated images, and how many these are."""
    reader = CacheReader(request.cache, view=view)
    if reader.plan.split.startswith(EVALUATED):
        raise ConfigError(
            f"{show(str(request.cache), 300)} is of split {reader.plan.split}: a prior that has seen "
            "its targets would be judged by them: take that of a training cache with --prior CACHE"
        )
    seen = annotated(reader, request.data, request.sample)
    prior = seen.fit(slice(None))
    worths = [
        prior.worth(means, reader.superpixels(row))
        for row, means in zip(seen.rows, seen.means, strict=True)
    ]
    limits = thresholds(worths)
    if not limits:
        raise ConfigError(
            f"{show(str(request.cache), 300)}: {np.mean([len(w) for w in worths]):.1f} superpixels per "
            "image: there is nothing to order"
        )
    shape = seen.fit(slice(None), shape_alone=True).text()
    return OrderConfig(prior=prior.text(), thresholds=limits, shape=shape), len(worths)
