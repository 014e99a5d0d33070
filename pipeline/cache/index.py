"""Finish a layer: write the index over all its manifests and the COMPLETE marker.

With it a cache of thousands of shards opens by reading a few files. `COMPLETE` carries the index's
sha256; without a valid `COMPLETE` the index is not used and the manifests are read instead.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import xxhash
from numcodecs import zstd
from numpy.typing import NDArray

from ..display import counted, show
from ..errors import CacheError
from ..io.binary import zstd_content_size
from ..io.json_files import JsonFile, canonical, parse_checked, parse_model
from ..store import Place, Store, open_store
from .layers import SUPERPIXELS, Layer
from .layout import COMPLETE, INDEX, PLAN, exists, read_file
from .manifest import Committed, Count, Hex64, Manifest, read_manifests
from .plan import Plan
from .schema import COLUMNS, ArraySpec

MAX_INDEX_BYTES = 1 << 30
MISSING, GOOD, BAD = 0, 1, 2  # codes of the `status` array


class Index(JsonFile):
    """The content of index.json."""

    schema_version: Literal[2] = 2
    layer: str
    manifests: list[Hex64]  # each shard's Manifest.check
    bytes: dict[str, Count]  # total per array
    columns: dict[str, Hex64]  # xxh3_64 of the chunk of each column
    bad: list[tuple[Count, str, str]]  # row, reason, detail
    fallback: list[Count]  # rows


class _Complete(JsonFile):
    layer: str
    index: str


@dataclass(frozen=True)
class Rows:
    """Status of every image, by row, in one layer or in all layers of a plan.

    status   (N,) uint8: 0 not committed, 1 ok, 2 quarantined
    k        (N,) uint16 superpixels, 0 unless ok; all 0 of a layer that counts none
    fallback rows whose only superpixel is the whole image
    bad      row -> (reason, detail)
    complete whether the layer, or every layer, has its COMPLETE mark
    checks   of a layer: each shard's Manifest.check, "" where it is not committed
    """

    status: NDArray[np.uint8]
    k: NDArray[np.uint16]
    fallback: frozenset[int] = frozenset()
    bad: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    complete: bool = False
    checks: tuple[str, ...] = ()


def finalize(cache: Place, plan: Plan, committed: Committed) -> Rows:
    """Write columns, index.json and COMPLETE of every layer of `plan`. Safe to repeat.

    Raises CacheError naming the first shards that are not in `committed`.
    """
    store = open_store(cache)
    for layer in plan.layers:
        manifests = committed.of(layer)
        missing = [shard for shard in range(layer.num_shards) if shard not in manifests]
        if missing:
            raise CacheError(
                f"{show(str(cache), 300)}: {layer.folder}: {len(missing):,} of "
                f"{counted(layer.num_shards, 'shard', 'are')} missing "
                f"(first {missing[:5]}): run the same `svp precompute` again"
            )
    parts = []
    for layer in plan.layers:
        manifests = committed.of(layer)
        parts.append(replace(_merge(layer, manifests), complete=True))
        sizes = dict.fromkeys((spec.name for spec in layer.arrays), 0)
        for manifest in manifests.values():
            for name, file in manifest.files.items():
                sizes[name] += file.bytes
        finish_layer(store, layer, parts[-1], sizes)
    return _together(plan, parts)


def finish_layer(cache: Place, layer: Layer, rows: Rows, sizes: Mapping[str, int]) -> None:
    """Write columns, index.json and COMPLETE of a layer whose every shard is in `rows.checks`.

    sizes  bytes of each array's files
    """
    store, hashes = open_store(cache), dict[str, str]()
    for spec, (key, data) in zip(columns_of(layer), column_files(layer, rows), strict=False):
        store.replace(key, data, label="column")
        hashes[spec.name] = xxhash.xxh3_64_hexdigest(data)
    index = canonical(
        {
            "schema_version": 2,
            "layer": layer.id,
            "manifests": list(rows.checks),
            "bytes": dict(sizes),
            "columns": hashes,
            "bad": [[row, *rows.bad[row]] for row in sorted(rows.bad)],
            "fallback": sorted(rows.fallback),
        }
    )
    store.replace(f"{layer.folder}/{INDEX}", index, label="index")
    # The mark comes last: it vouches for the index, which is trusted from now on.
    mark = canonical({"layer": layer.id, "index": hashlib.sha256(index).hexdigest()})
    store.replace(f"{layer.folder}/{COMPLETE}", mark, label="complete")


def load_rows(
    cache: Place,
    plan: Plan,
    committed: Committed | None = None,
    each: Callable[[Layer, Rows], object] | None = None,
) -> Rows:
    """`Rows` of a plan: of each complete layer from its index, of the others from `committed`.

    committed  None: the manifests that are there
    each       is given each layer with its own rows

    Raises CacheError if COMPLETE, the index or a manifest that is read is damaged or of another
    layer.
    """
    store = open_store(cache)

    def part(layer: Layer) -> Rows:
        rows = layer_rows(store, layer, committed)
        if each is not None:
            each(layer, rows)
        return rows

    return _together(plan, map(part, plan.layers))


def layer_rows(cache: Place, layer: Layer, committed: Committed | None = None) -> Rows:
    """`Rows` of one layer; see `load_rows`."""
    store = open_store(cache)
    if exists(store, f"{layer.folder}/{COMPLETE}"):
        return read_index(store, layer)
    if committed is not None:
        return _merge(layer, committed.of(layer))
    return _merge(layer, read_manifests(store, layer))


def is_complete(cache: Place, plan: Plan | None = None) -> bool:
    """Whether every layer of `plan` has its COMPLETE mark, without reading it.

    plan  None: that of plan.json, if it is there. Raises as `Plan.load`.
    """
    store = open_store(cache)
    if plan is None:
        if not exists(store, PLAN):
            return False
        plan = Plan.load(store)
    return all(exists(store, f"{layer.folder}/{COMPLETE}") for layer in plan.layers)


def open_index(cache: Store, layer: Layer) -> Index:
    """The index of a complete layer. Raises CacheError if it or COMPLETE is damaged."""
    key, mark_key = f"{layer.folder}/{INDEX}", f"{layer.folder}/{COMPLETE}"
    path, mark_path = cache.where(key), cache.where(mark_key)
    mark = parse_model(_Complete, read_file(cache, mark_key, 4096), mark_path)
    data = read_file(cache, key, MAX_INDEX_BYTES)
    if mark.layer != layer.id:
        raise CacheError(
            f"{show(mark_path, 300)}: belongs to layer {show(mark.layer[:12])}, "
            f"not to {layer.id[:12]}"
        )
    if hashlib.sha256(data).hexdigest() != mark.index:
        raise CacheError(
            f"{show(path, 300)}: is not the one {COMPLETE} names: run `svp cache repair`"
        )
    index = parse_checked(Index, data, path)
    rows = [row for row, _, _ in index.bad]
    fits = len(index.manifests) == layer.num_shards and index.layer == layer.id
    if not fits or max([*rows, *index.fallback, -1]) >= len(layer.images):
        raise CacheError(f"{show(path, 300)}: does not fit its plan: run `svp cache repair`")
    return index


def read_index(cache: Place, layer: Layer) -> Rows:
    """`Rows` of a complete layer. Raises CacheError on any damage."""
    store = open_store(cache)
    index = open_index(store, layer)
    status = np.full(len(layer.images), GOOD, np.uint8)
    status[[row for row, _, _ in index.bad]] = BAD
    return Rows(
        status=status,
        k=_read_k(store, layer, index),
        fallback=frozenset(index.fallback),
        bad={row: (reason, detail) for row, reason, detail in index.bad},
        complete=True,
        checks=tuple(index.manifests),
    )


def columns_of(layer: Layer) -> list[ArraySpec]:
    """The columns that a layer stores for other tools."""
    return [spec for spec in COLUMNS if spec.name != "k" or layer.kind == SUPERPIXELS]


def column_key(layer: Layer, spec: ArraySpec) -> str:
    """The one chunk of a column."""
    return "/".join([layer.folder, spec.name, "c", *["0"] * (1 + len(spec.row))])


def column_files(layer: Layer, rows: Rows) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of the chunk of each column of a layer."""
    if not len(layer.images):
        return
    columns: dict[str, NDArray[Any]] = {"k": rows.k, "status": rows.status}
    for spec in columns_of(layer):
        values = np.ascontiguousarray(columns[spec.name].astype(spec.numpy))
        yield column_key(layer, spec), zstd.compress(values, spec.level, checksum=True)


def _read_k(cache: Store, layer: Layer, index: Index) -> NDArray[np.uint16]:
    n = len(layer.images)
    if layer.kind != SUPERPIXELS or not n:
        return np.zeros(n, np.uint16)
    spec = next(spec for spec in COLUMNS if spec.name == "k")
    path = cache.where(column_key(layer, spec))
    data = read_file(cache, column_key(layer, spec), MAX_INDEX_BYTES)
    if xxhash.xxh3_64_hexdigest(data) != index.columns.get("k"):
        raise CacheError(f"{show(path, 300)}: is not the one {INDEX} names: run `svp cache repair`")
    k = np.empty(n, spec.numpy)
    fits = zstd_content_size(data) == k.nbytes
    if fits:
        try:
            zstd.decompress(data, k)
        except (RuntimeError, ValueError):  # of a frame that is cut, or that another follows
            fits = False
    if not fits or int(k.max()) > layer.k:
        raise CacheError(f"{show(path, 300)}: does not fit its plan: run `svp cache repair`")
    return k.astype(np.uint16, copy=False)


def _together(plan: Plan, parts: Iterable[Rows]) -> Rows:
    """`Rows` of all layers, the superpixels first: an image is good where every layer has it."""
    status = np.full(len(plan.images), GOOD, np.uint8)
    bad: dict[int, tuple[str, str]] = {}
    k, fallback, complete = None, frozenset[int](), True
    for rows in parts:  # one at a time: of a billion images each is large
        if k is None:
            k, fallback = rows.k.copy(), rows.fallback
        status[rows.status == MISSING] = MISSING
        bad = {**rows.bad, **bad}  # the first layer's reason counts
        complete = complete and rows.complete
    status[list(bad)] = BAD
    assert k is not None
    k[status != GOOD] = 0
    return Rows(
        status=status,
        k=k,
        fallback=frozenset(row for row in fallback if status[row] == GOOD),
        bad=dict(sorted(bad.items())),
        complete=complete,
    )


def _merge(layer: Layer, committed: Mapping[int, Manifest]) -> Rows:
    n = len(layer.images)
    status, k = np.zeros(n, np.uint8), np.zeros(n, np.uint16)
    fallback: set[int] = set()
    bad: dict[int, tuple[str, str]] = {}
    for shard, manifest in committed.items():
        rows = layer.rows(shard)
        status[rows.start : rows.stop] = GOOD
        if manifest.k:
            k[rows.start : rows.stop] = manifest.k
        fallback.update(rows.start + slot for slot in manifest.fallback)
        for slot, reason, detail in manifest.bad:
            status[rows.start + slot] = BAD
            bad[rows.start + slot] = reason, detail
    checks = tuple(committed[s].check if s in committed else "" for s in range(layer.num_shards))
    return Rows(status, k, frozenset(fallback), bad, checks=checks)
