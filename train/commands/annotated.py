"""`svp cache stats` and `order`, which read annotations beside a cache; each calls one function."""

from typing import TYPE_CHECKING, Any

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.data import max_failures, source_options
from ...pipeline.commands.path_types import PLACE
from .shared import DATA, dataset, take

if TYPE_CHECKING:
    from ...pipeline.store import Place


@click.command("stats")
@click.argument("path", type=PLACE)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Images whose masks are read.",
)
@click.option(
    "--budget", is_flag=True,
    help="Instead: what fewer superpixels allow, by the rule that selects them.",
)  # fmt: skip
@dataset
@source_options
@max_failures
@as_json
def stats_command(path: "Place", sample: int, budget: bool, as_json: bool, **options: Any) -> None:
    """Show tokens per image, coverage, overlap, levels, selection steps and bytes.

    With --budget: the best union of the superpixels that are kept against each annotated target.
    """
    from ...pipeline.cache.stats import stats
    from ..options import DataRequest

    if budget:
        _require_cache(path)
        from ..runs.cache_budget import BudgetRequest, budget_stats

        data = DataRequest(**take(options, DATA))
        return report(budget_stats(BudgetRequest(cache=path, data=data, sample=sample)), as_json)
    if given := sorted(name for name, value in options.items() if value not in (None, False)):
        raise click.UsageError(f"--{given[0].replace('_', '-')} is read with --budget alone")
    report(stats(path, sample), as_json)


@click.command("order")
@click.argument("path", type=PLACE)
@click.option(
    "--prior", type=PLACE, metavar="CACHE",
    help="Take the prior of this cache, which has an order, instead of fitting one.",
)  # fmt: skip
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    default=2000,
    show_default=True,
    help="Images that the prior is fitted on.",
)
@dataset
@source_options
@max_failures
@as_json
def order_command(path: "Place", as_json: bool, **options: Any) -> None:
    """Store the order and worth of a cache's superpixels, for a budget of visual tokens.

    The prior of worth is fitted on the annotations of a training split; the cache of another split
    takes it with --prior.
    """
    _require_cache(path)
    from ..options import DataRequest
    from ..runs.cache_order import OrderRequest, order_cache

    data = DataRequest(**take(options, DATA))
    report(order_cache(OrderRequest(cache=path, data=data, **options)), as_json)


def _require_cache(path: "Place") -> None:
    """Refuse what is no cache before PyTorch is imported, which takes seconds."""
    from ...pipeline.cache.plan import Plan

    Plan.load(path)


ANNOTATED = (stats_command, order_command)
