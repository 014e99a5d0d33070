"""Where things lie in a cache: the only file that spells names.

plan.json                immutable; its sha256 is the cache id
zarr.json                Zarr v3 group, so that any reader can open the folder
<array>/zarr.json        one Zarr v3 array per field
<array>/c/<shard>/0/...  one file = the rows of 64 images
manifest/<shard>.json    written last: the shard is committed
logs/<shard>.json        times and host of that shard; no part of the cache's content
index.json, COMPLETE     written once all shards are committed
"""

import os
import re
from pathlib import Path

from ..errors import CacheError, ConfigError
from ..text import show

PLAN, INDEX, COMPLETE, META = "plan.json", "index.json", "COMPLETE", "zarr.json"
MANIFESTS, LOGS = "manifest", "logs"


def shard_path(cache: Path, array: str, shard: int, axes: int) -> Path:
    """File of shard `shard` of an array with `axes` axes (only the first is split)."""
    return cache.joinpath(array, "c", str(shard), *["0"] * (axes - 1))


def manifest_path(cache: Path, shard: int) -> Path:
    """The record that commits shard `shard`."""
    return cache / MANIFESTS / f"{shard}.json"


def log_path(cache: Path, shard: int) -> Path:
    """Times, host and tries of shard `shard`."""
    return cache / LOGS / f"{shard}.json"


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` makes one slash of two


def refuse_url(path: Path) -> None:
    """Raise ConfigError if `path` is an address such as s3://bucket/cache.

    Commits are renames and records synced to a disk; object storage has neither.
    """
    if _URL.match(str(path)):
        raise ConfigError(
            f"{show(str(path), 300)}: a cache is a folder of a file system, not a URL: "
            "mount it, or copy the cache there once it is complete"
        )


def refuse_links(cache: Path, path: Path) -> None:
    """Raise CacheError if a part of `path` below `cache` is a symbolic link."""
    inside = path.relative_to(cache)
    if os.path.realpath(path) != os.path.normpath(os.path.join(os.path.realpath(cache), inside)):
        raise CacheError(f"{show(str(path), 300)}: a symbolic link inside the cache: remove it")
