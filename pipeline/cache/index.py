"""Finish a build: write the index over all manifests and the COMPLETE marker.

With it a cache of thousands of shards opens by reading three files. `COMPLETE` carries the index's
sha256; without a valid `COMPLETE` the index is not used and the manifests are read instead.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray
from pydantic import Field

from ..display import counted, show
from ..errors import CacheError
from ..io.atomic import make_folder, write_file
from ..io.json_files import JsonFile, canonical, parse_checked, parse_model, read_bounded
from .layout import COMPLETE, INDEX
from .manifest import OK, Committed, Count, Hex64, committed_shards, read_manifest
from .plan import SCHEMA, Plan
from .schema import COLUMNS

MAX_INDEX_BYTES = 1 << 30
MISSING, GOOD, BAD = 0, 1, 2  # codes of the `status` array


class _Index(JsonFile):
    schema_version: Literal[1] = 1
    cache: str
    manifests: list[Hex64]  # each shard's Manifest.check
    bytes: dict[str, Count]  # total per array
    k: list[Annotated[int, Field(ge=0, le=65_535)]]
    bad: list[tuple[Count, str, str]]  # row, reason, detail
    fallback: list[Count]  # rows


class _Complete(JsonFile):
    cache: str
    index: str


@dataclass(frozen=True)
class Rows:
    """Status of every image of a plan, by row.

    status   (N,) uint8: 0 not committed, 1 ok, 2 quarantined
    k        (N,) uint16 superpixels, 0 unless ok
    fallback rows whose only superpixel is the whole image
    bad      row -> (reason, detail)
    complete whether the cache has its COMPLETE mark
    checks   (shard -> Manifest.check) as recorded in the index; empty while incomplete
    """

    status: NDArray[np.uint8]
    k: NDArray[np.uint16]
    fallback: frozenset[int]
    bad: dict[int, tuple[str, str]]
    complete: bool
    checks: tuple[str, ...] = ()


def finalize(cache: Path, plan: Plan, committed: Committed) -> Rows:
    """Write the id, hw, k and status arrays, index.json and COMPLETE. Safe to repeat.

    Raises CacheError naming the first shards that are not in `committed`.
    """
    missing = [shard for shard in range(plan.num_shards) if shard not in committed]
    if missing:
        raise CacheError(
            f"{show(str(cache), 300)}: {len(missing):,} of "
            f"{counted(plan.num_shards, 'shard', 'are')} missing "
            f"(first {missing[:5]}): run the same `svp precompute` again"
        )
    rows = _merge(plan, committed, complete=True)
    for path, data in column_files(cache, plan, rows):
        make_folder(path.parent, cache)
        write_file(path, data, label="column")
    index = _index(plan, committed, rows)
    write_file(cache / INDEX, index, label="index")
    # The mark comes last: it vouches for the index, which is trusted from now on.
    mark = canonical({"cache": plan.id, "index": hashlib.sha256(index).hexdigest()})
    write_file(cache / COMPLETE, mark, label="complete")
    return rows


def load_rows(cache: Path, plan: Plan, committed: Committed | None = None) -> Rows:
    """`Rows` from the index of a complete cache, else from `committed`, None: the manifests there.

    Raises CacheError if COMPLETE, the index or a manifest that is read is damaged or of another
    cache.
    """
    if (cache / COMPLETE).exists():
        return read_index(cache, plan)
    if committed is None:
        committed = {s: read_manifest(cache, plan, s) for s in committed_shards(cache, plan)}
    return _merge(plan, committed, complete=False)


def read_index(cache: Path, plan: Plan) -> Rows:
    """`Rows` of a complete cache. Raises CacheError on any damage."""
    path, mark_path = cache / INDEX, cache / COMPLETE
    mark = parse_model(_Complete, read_bounded(mark_path, 4096), mark_path)
    data = read_bounded(path, MAX_INDEX_BYTES)
    if mark.cache != plan.id:
        raise CacheError(
            f"{show(str(mark_path), 300)}: belongs to cache {show(mark.cache[:12])}, "
            f"not to {plan.id[:12]}"
        )
    if hashlib.sha256(data).hexdigest() != mark.index:
        raise CacheError(
            f"{show(str(path), 300)}: is not the one {COMPLETE} names: run `svp cache repair`"
        )
    index = parse_checked(_Index, data, path)
    n = len(plan.images)
    rows = [row for row, _, _ in index.bad]
    fits = len(index.k) == n and len(index.manifests) == plan.num_shards and index.cache == plan.id
    if not fits or max([*rows, *index.fallback, -1]) >= n or max(index.k, default=0) > plan.k:
        raise CacheError(f"{show(str(path), 300)}: does not fit plan.json: run `svp cache repair`")
    status = np.full(n, GOOD, np.uint8)
    status[rows] = BAD
    return Rows(
        status=status,
        k=np.array(index.k, np.uint16),
        fallback=frozenset(index.fallback),
        bad={row: (reason, detail) for row, reason, detail in index.bad},
        complete=True,
        checks=tuple(index.manifests),
    )


def column_files(cache: Path, plan: Plan, rows: Rows) -> Iterator[tuple[Path, bytes]]:
    """Path and bytes of the chunk of each of the id, hw, k and status arrays."""
    if not plan.images:
        return
    sides = np.array([(image.height, image.width) for image in plan.images])
    columns = {
        "id": np.array([image.image_id for image in plan.images]),
        "hw": np.minimum(sides, np.iinfo(np.uint16).max),
        "k": rows.k,
        "status": rows.status,
    }
    for spec in COLUMNS:
        values = np.ascontiguousarray(columns[spec.name].astype(spec.numpy))
        path = cache.joinpath(spec.name, "c", *["0"] * (1 + len(spec.row)))
        yield path, zstd.compress(values, spec.level, checksum=True)


def _merge(plan: Plan, committed: Committed, *, complete: bool) -> Rows:
    status = np.zeros(len(plan.images), np.uint8)
    k = np.zeros(len(plan.images), np.uint16)
    fallback: set[int] = set()
    bad: dict[int, tuple[str, str]] = {}
    for shard, manifest in committed.items():
        for row, entry in enumerate(manifest.images, shard * plan.shard_size):
            status[row], k[row] = (GOOD if entry.status == OK else BAD), entry.k
            if entry.fallback:
                fallback.add(row)
            if entry.status != OK:
                bad[row] = entry.reason, entry.detail
    checks = tuple(committed[s].check for s in range(plan.num_shards)) if complete else ()
    return Rows(status, k, frozenset(fallback), bad, complete, checks)


def _index(plan: Plan, committed: Committed, rows: Rows) -> bytes:
    totals: dict[str, int] = {}
    for manifest in committed.values():
        for name, file in manifest.files.items():
            totals[name] = totals.get(name, 0) + file.bytes
    return canonical(
        {
            "schema_version": SCHEMA,
            "cache": plan.id,
            "manifests": list(rows.checks),
            "bytes": totals,
            "k": rows.k.tolist(),
            "bad": [[row, *rows.bad[row]] for row in sorted(rows.bad)],
            "fallback": sorted(rows.fallback),
        }
    )
