"""Copies of many manifests in one file, so that a resume lists a cache and reads little else.

A million images have 15,625 shards, and each shard a manifest in every layer. The snapshot
`logs/manifests/<layer>/<block>.json.zst` holds those of `BLOCK` shards, each with the tag its file
had in the listing. A copy counts only while a listing shows that tag, so a snapshot may be old,
damaged or lost: what it lacks is read from the manifests. It is no part of the cache's content.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

from numcodecs import zstd
from pydantic import Field

from ..errors import CacheError, MissingError
from ..io.binary import zstd_content_size
from ..io.json_files import JsonFile, canonical, parse_checked
from ..store import Store
from .layers import Layer
from .layout import snapshot_key

BLOCK = 16_384  # shards
MAX_BYTES = 256 << 20  # of a snapshot, compressed or not

log = logging.getLogger(__name__)


class _Snapshot(JsonFile):
    """The content of the file: shard, tag of its manifest, text of its manifest."""

    schema_version: Literal[1] = 1
    layer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    manifests: list[tuple[int, str, str]]


def load_snapshot(cache: Store, layer: Layer, block: int) -> dict[int, tuple[str, bytes]]:
    """Tag and bytes of the manifests of a block by shard; empty if there is no sound snapshot."""
    key = snapshot_key(layer.folder, block)
    try:
        data = cache.read(key, MAX_BYTES)
        if (zstd_content_size(data) or MAX_BYTES + 1) > MAX_BYTES:
            raise CacheError(f"{cache.where(key)}: no zstd frame of svp, or too large a one")
        found = parse_checked(_Snapshot, zstd.decompress(data), cache.where(key))
    except MissingError:
        return {}
    except (CacheError, RuntimeError) as error:  # numcodecs raises RuntimeError
        log.debug("not used: %s", error)
        return {}
    if found.layer != layer.id:
        return {}
    return {shard: (tag, text.encode()) for shard, tag, text in found.manifests}


def save_snapshot(
    cache: Store, layer: Layer, block: int, manifests: Mapping[int, tuple[str, bytes]]
) -> None:
    """Write tag and bytes of the manifests of a block; where the store refuses, there is none."""
    listed = [[shard, tag, data.decode()] for shard, (tag, data) in sorted(manifests.items())]
    data = canonical({"schema_version": 1, "layer": layer.id, "manifests": listed})
    if len(data) <= MAX_BYTES:
        with suppress(CacheError):
            packed = zstd.compress(data, 1, checksum=True)
            cache.replace(snapshot_key(layer.folder, block), packed, label="log")
