"""File layout of a cache, as keys of its store; no other module spells these names.

plan.json                       images, recipe and sizes; its sha256 is the cache id
views/<number>-<id>.json        more such plans over the same layers (another encoder, say)
zarr.json                       Zarr v3 groups, so that any reader can open the folder
images/<digest>/<column>/...    the image list
<kind>/<name>/                  a layer: superpixels, cover, features, layers, cls or sam
    layer.json                  what it was made with; its sha256 is the layer's id
    <array>/zarr.json           one Zarr v3 array per field
    <array>/c/<shard>/0/...     one file = the rows of 64 images
    manifest/<shard>.json       written last: the shard of this layer is committed
    index.json, COMPLETE        written once all its shards are committed
logs/<shard>.json               times and host of that shard; no part of the cache's content
logs/claims/<shard>.json        process that works on it, of those that join a run; no part either
logs/manifests/<layer>/...      copies of manifests, of large caches; no part either
"""

from ..errors import CacheError, MissingError
from ..store import Place, Store, open_store
from .schema import ArraySpec

PLAN, INDEX, COMPLETE, META, LAYER = (
    "plan.json",
    "index.json",
    "COMPLETE",
    "zarr.json",
    "layer.json",
)
MANIFESTS, LOGS, CLAIMS, VIEWS = "manifest", "logs", "claims", "views"


def shard_key(spec: ArraySpec, shard: int) -> str:
    """File of shard `shard` of an array, of which only the first axis is split."""
    return "/".join([spec.path, "c", str(shard), *["0"] * len(spec.row)])


def manifest_key(layer: str, shard: int) -> str:
    """The record that commits shard `shard` of the layer in folder `layer`."""
    return f"{layer}/{MANIFESTS}/{shard}.json"


def snapshot_folder(layer: str) -> str:
    """Copies of the manifests of the layer in folder `layer`."""
    return f"{LOGS}/manifests/{layer}"


def snapshot_key(layer: str, block: int) -> str:
    """Copies of the manifests of a block of shards of the layer in folder `layer`."""
    return f"{snapshot_folder(layer)}/{block}.json.zst"


def log_key(shard: int) -> str:
    """Times, host and tries of shard `shard`."""
    return f"{LOGS}/{shard}.json"


def holds_cache(place: Place) -> bool:
    """Whether there is a cache, of which nothing is read."""
    return exists(open_store(place), PLAN)


def exists(cache: Store, key: str) -> bool:
    """Whether the file is there, without reading it."""
    return bool(cache.sizes_of([key]))


def read_file(cache: Store, key: str, limit: int) -> bytes:
    """A file that belongs to the cache: CacheError where it is missing too."""
    try:
        return cache.read(key, limit)
    except MissingError:
        raise CacheError(f"{cache.where(key)}: missing: run `svp cache repair`") from None
