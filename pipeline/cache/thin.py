"""The thin form of a plan, and its layers from the stored rows of a full cache.

A thin cache holds the mean of each superpixel (Eq. 2) in the place of patch features. Means and
SAM's embedding in int8 are pure functions of stored float16 rows, so a copy has the bytes that
`svp precompute --thin` would compute of the photographs.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..display import show
from ..errors import ConfigError
from ..io.binary import empty
from ..process import installed
from ..recipe import thin
from ..records import ImageRow, Quarantined
from ..store import Store
from .layers import COVER, FEATURES, LAYERS, POOLED, SAM, SUPERPIXELS, Layer, library_names
from .layout import shard_key
from .manifest import read_manifest
from .plan import Plan
from .shard_file import ShardFile
from .writer import write_shard

FIELDS = {COVER: "cover", FEATURES: "patches", LAYERS: "layers", SAM: "sam"}
READ_THREADS = 16  # rows of an object store in flight


def thin_plan(plan: Plan) -> Plan:
    """The plan of the thin form of a cache; the same for one that is thin already."""
    recipe = thin(plan.recipe)
    # A layer that stays keeps its versions; what only the means are made with is installed here.
    names, known = library_names(recipe), plan.recipe.libraries
    versions = {name: known[name] for name in names if name in known}
    versions |= {name: installed(name) for name in {*names} - {*library_names(plan.recipe)}}
    return replace(plan, recipe=recipe.model_copy(update={"libraries": versions}))


def require_source(source: Store, plan: Plan) -> None:
    """ConfigError unless the means are there, or can be made of what `plan` stores in float16."""
    stored = plan.recipe.features.stored
    there = {layer.id for layer in plan.layers}
    if stored == "float16" or thin_plan(plan).layer(POOLED).id in there:
        return
    where = show(source.where(), 300)
    remedy = f"add them with `svp cache add {where} pooled` first"
    if plan.blocks:
        remedy = "make the cache of the photographs with `svp precompute --thin`"
    raise ConfigError(
        f"{where}: features are stored as {stored}, and means are made of float16: {remedy}"
    )


def make_thin_shard(
    source: Store, plan: Plan, cache: Store, kept: Plan, shard: int, layers: Sequence[Layer]
) -> None:
    """Commit `layers` of a shard of `kept` from the rows of `plan` in `source`.

    Raises CacheError naming the file of a row that cannot be trusted.
    """
    kinds = {layer.kind for layer in layers}
    kinds |= {COVER, FEATURES, LAYERS} if POOLED in kinds else set()
    read = [layer for layer in plan.layers if layer.kind in kinds & FIELDS.keys()]
    counts = read_manifest(source, plan.layer(SUPERPIXELS), shard).k
    # The first array of a layer has its values; what follows in `cover` is not needed here.
    files: dict[str, ShardFile] = {}
    refused: dict[int, dict[str, Quarantined]] = {slot: {} for slot in range(len(counts))}
    images = plan.shard(shard)
    for layer in read:
        spec = layer.arrays[0]
        files[layer.kind] = ShardFile(source, shard_key(spec, shard), spec, plan.shard_size)
        for slot, reason, detail in read_manifest(source, layer, shard).bad:
            refused[slot][layer.kind] = Quarantined(images[slot].image_id, reason, detail)

    def row(slot: int) -> ImageRow:
        values = {
            FIELDS[kind]: _read(file, slot, counts[slot])
            for kind, file in files.items()
            if kind not in refused[slot]
        }
        return ImageRow(images[slot].image_id, **values, refused=refused[slot])

    with ThreadPoolExecutor(READ_THREADS) as threads:
        rows = list(threads.map(row, range(len(images))))
    versions = {name: installed(name) for name in library_names(kept.recipe)}
    info = {"made of": plan.id, "libraries": versions}
    write_shard(cache, kept, shard, rows, info, layers)


def _read(file: ShardFile, slot: int, count: int) -> Any:
    out = empty(file.spec.row, file.spec.numpy)
    file.read(slot, out, verify=True)
    return out[:count] if file.spec.axes[0] == "superpixel" else out
