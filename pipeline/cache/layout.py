"""File layout of a cache; no other module spells these names.

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
"""

from pathlib import Path

from .schema import ArraySpec

PLAN, INDEX, COMPLETE, META, LAYER = (
    "plan.json",
    "index.json",
    "COMPLETE",
    "zarr.json",
    "layer.json",
)
MANIFESTS, LOGS, CLAIMS, VIEWS = "manifest", "logs", "claims", "views"


def shard_path(cache: Path, spec: ArraySpec, shard: int) -> Path:
    """File of shard `shard` of an array, of which only the first axis is split."""
    return cache.joinpath(spec.path, "c", str(shard), *["0"] * len(spec.row))


def manifest_path(cache: Path, layer: str, shard: int) -> Path:
    """The record that commits shard `shard` of the layer in folder `layer`."""
    return cache / layer / MANIFESTS / f"{shard}.json"


def log_path(cache: Path, shard: int) -> Path:
    """Times, host and tries of shard `shard`."""
    return cache / LOGS / f"{shard}.json"
