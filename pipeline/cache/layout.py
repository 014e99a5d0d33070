"""File layout of a cache; no other module spells these names.

plan.json                immutable; its sha256 is the cache id
zarr.json                Zarr v3 group, so that any reader can open the folder
<array>/zarr.json        one Zarr v3 array per field
<array>/c/<shard>/0/...  one file = the rows of 64 images
manifest/<shard>.json    written last: the shard is committed
logs/<shard>.json        times and host of that shard; no part of the cache's content
index.json, COMPLETE     written once all shards are committed
"""

from pathlib import Path

from .schema import ArraySpec

PLAN, INDEX, COMPLETE, META = "plan.json", "index.json", "COMPLETE", "zarr.json"
MANIFESTS, LOGS = "manifest", "logs"


def shard_path(cache: Path, spec: ArraySpec, shard: int) -> Path:
    """File of shard `shard` of an array, of which only the first axis is split."""
    return cache.joinpath(spec.name, "c", str(shard), *["0"] * len(spec.row))


def manifest_path(cache: Path, shard: int) -> Path:
    """The record that commits shard `shard`."""
    return cache / MANIFESTS / f"{shard}.json"


def log_path(cache: Path, shard: int) -> Path:
    """Times, host and tries of shard `shard`."""
    return cache / LOGS / f"{shard}.json"
