"""The layer `order` of a cache, made of what its other layers store; photographs are not read."""

from dataclasses import replace

from ..display import show
from ..errors import CacheError, ConfigError
from ..process import installed
from ..recipe import OrderConfig
from ..records import ImageRow, Quarantined
from ..store import Place, open_store
from .create import create_cache
from .index import finalize, is_complete
from .layers import ORDER, library_names
from .layout import exists, manifest_key
from .made_by import note_code
from .manifest import read_committed
from .plan import Plan, all_plans
from .reader import CacheReader
from .stored_means import stored_means
from .writer import write_shard


def ordered(plan: Plan, order: OrderConfig) -> Plan:
    """`plan` with the order of a prior. Layers that it has keep the versions they were made with."""
    recipe = plan.recipe.model_copy(update={"order": order})
    names, known = library_names(recipe), plan.recipe.libraries
    versions = {name: known[name] for name in names if name in known}
    versions |= {name: installed(name) for name in {*names} - {*library_names(plan.recipe)}}
    return replace(plan, recipe=recipe.model_copy(update={"libraries": versions}))


def prior_of(cache: Place) -> OrderConfig:
    """The prior of a cache that has an order. Raises ConfigError if it has none."""
    for plan in all_plans(cache).values():
        if plan.recipe.order is not None:
            return plan.recipe.order
    raise ConfigError(
        f"{show(str(cache), 300)} has no order: make it first with `svp cache order "
        f"{show(str(cache), 300)}`"
    )


def shape_prior_of(cache: Place) -> str:
    """The prior of shapes of a cache that has an order, for `SuperpixelConfig.cap`. Raises ConfigError."""
    if found := prior_of(cache).shape:
        return found
    where = show(str(cache), 300)
    raise ConfigError(
        f"{where}: its order was made before there was a prior of shapes: make it again: `svp cache drop "
        f"{where} order`, then `svp cache order {where}`"
    )


def make_order(cache: Place, view: str, plan: Plan) -> None:
    """Write the layer of `plan`, and `plan` beside the one of `view`, which has the other layers.

    Safe to repeat: what is there is not made again. Raises CacheError if the cache is not complete or
    damaged, PlanMismatchError if it has the order of another prior.
    """
    reader = CacheReader(cache, view=view)
    if not is_complete(reader.store, reader.plan):
        raise CacheError(
            f"{show(str(cache), 300)}: not complete: run the same `svp precompute` again first"
        )
    store = open_store(cache)
    create_cache(store, plan, view=True)
    layer = plan.layer(ORDER)
    note_code(store, [layer])
    info = {"libraries": {name: installed(name) for name in library_names(plan.recipe)}}
    for shard in range(plan.num_shards):
        if not exists(store, manifest_key(layer.folder, shard)):
            rows = [_row(reader, row) for row in layer.rows(shard)]
            write_shard(store, plan, shard, rows, info, [layer])
    finalize(store, plan, read_committed(store, plan))


def _row(reader: CacheReader, row: int) -> ImageRow | Quarantined:
    image_id = reader.plan.images[row].image_id
    if row in reader.rows.bad:
        return Quarantined(image_id, *reader.rows.bad[row])
    found = reader.superpixels(row)
    return ImageRow(image_id, superpixels=found, means=stored_means(reader, row))
