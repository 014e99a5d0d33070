"""Find damaged shards and un-commit exactly their layers, so that a rerun makes only those again.

`full` hashes every byte; without it only sizes, records and shard indices are looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash

from ..display import Report, counted, show
from ..errors import CacheError
from ..store import Place, Store, open_store
from .create import write_metadata
from .index import (
    MAX_INDEX_BYTES,
    column_key,
    columns_of,
    finalize,
    is_complete,
    open_index,
)
from .layers import Layer
from .layout import (
    COMPLETE,
    INDEX,
    LAYER,
    META,
    PLAN,
    exists,
    manifest_key,
    read_file,
    shard_key,
)
from .manifest import (
    Committed,
    committed_shards,
    damaged_files,
    missing_shards,
    read_committed,
    read_manifest,
)
from .plan import Plan, all_plans
from .shard_file import ShardFile
from .zarr_metadata import MAX_META_BYTES, check_document, documents

Map = Callable[[Callable[[int], "ShardReport"], Iterable[int]], Iterable["ShardReport"]]


@dataclass(frozen=True)
class ShardReport:
    """Faults of one shard: (file relative to the cache, cause) pairs; empty if sound.

    layers  folders of the layers that have a fault
    checks  each layer's manifest's, to compare with the index
    """

    shard: int
    problems: tuple[tuple[str, str], ...]
    layers: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class VerifyReport(Report):
    """The outcome of `verify`.

    problems   (file relative to the cache, why), damaged shards first, then shared files
    bad_shards shards with a problem of their own
    missing    shards that a layer has not committed (no damage: the build is not done)
    """

    cache: str
    full: bool
    shards: int
    files: int
    bytes: int
    bad_shards: tuple[int, ...]
    missing: tuple[int, ...]
    problems: tuple[tuple[str, str], ...]
    complete: bool

    @property
    def ok(self) -> bool:
        """No damage found."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0 sound (maybe not complete), 1 damaged."""
        return 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def lines(self) -> list[str]:
        """The report for people: counts, each damaged file, what to do."""
        how = "every byte" if self.full else "sizes and records"
        state = "complete" if self.complete else f"{counted(len(self.missing), 'shard')} missing"
        lines = [
            (
                f"cache {self.cache[:12]}: {counted(self.files, 'file')}, {self.bytes / 1e6:.1f} "
                f"MB, {how} read"
            ),
            f"{counted(self.shards, 'shard')}, {len(self.bad_shards)} damaged, {state}",
            *(f"{show(name, 200)}: {show(why, 300)}" for name, why in self.problems),
        ]
        if not self.ok:
            lines.append("run `svp cache repair`, then the same `svp precompute` again")
        return lines


def verify(cache: Place, full: bool = False, run: Map = map) -> VerifyReport:
    """Check all layers of a cache. `run` maps the per-shard check: `map`, a pool's, or a cluster's.

    Raises MissingError if there is no cache, CacheError if plan.json itself or the image list is
    damaged (nothing else can be judged then).
    """
    return _verify(open_store(cache), full, run)[0]


def verify_shard(cache: Place, shard: int, full: bool = True) -> ShardReport:
    """Check one committed shard: the manifests, files and, if `full`, every byte of its layers."""
    return _Check(open_store(cache), full)(shard)


def repair(cache: Place) -> list[int]:
    """Un-commit the shards that a full check finds damaged; returns their numbers.

    Only the damaged layers' part of a shard is un-committed. Also rewrites damaged zarr.json files,
    deletes what no manifest names (so no run may be at work on the cache) and, if no shard is missing,
    rewrites the index. Run the same `svp precompute` afterwards.
    """
    store = open_store(cache)
    report, shards = _verify(store, full=True, run=map)
    store.tidy()
    if report.problems:
        damaged = _by_layer(shards)
        own = (f"/{META}", f"/{LAYER}")
        faulty = [name for name, _ in report.problems if not name.endswith(own) and name != META]
        for layer in layers_in(store):
            # Of a shared file the layer loses its index alone, which comes anew with the last shard.
            if any(name.startswith(f"{layer.folder}/") for name in faulty):
                uncommit(store, layer, damaged.get(layer.folder, ()))
        for plan in all_plans(store).values():
            write_metadata(store, plan)
            committed = read_committed(store, plan)
            if not missing_shards(store, plan, committed):
                finalize(store, plan, committed)
    for layer in layers_in(store):
        _delete_unnamed(store, layer)
    return list(report.bad_shards)


def uncommit(cache: Place, layer: Layer, shards: Iterable[int]) -> None:
    """Take back the commit of `shards` of a layer, durably, and delete their files.

    Its COMPLETE and index go as well. The order matters: a crash in between leaves a cache that is
    merely incomplete.
    """
    store, taken = open_store(cache), sorted(shards)
    for name in (COMPLETE, INDEX):  # while COMPLETE exists the index is trusted
        store.delete(f"{layer.folder}/{name}")
    for shard in taken:
        store.delete(manifest_key(layer.folder, shard))
    # Files are never replaced, so those of the old commit would be in the way of other bytes.
    for shard in taken:
        for spec in layer.arrays:
            store.delete(shard_key(spec, shard))


def _delete_unnamed(cache: Store, layer: Layer) -> None:
    """Delete the shard files of a layer whose shard has no manifest."""
    named = set(committed_shards(cache, layer))
    for spec in layer.arrays:
        keys = {shard_key(spec, s) for s in range(layer.num_shards) if s not in named}
        for key, _ in list(cache.sizes(f"{spec.path}/c")):
            if key in keys:
                cache.delete(key)


def uncommit_damaged(
    cache: Place, committed: Committed, missing: Mapping[int, Sequence[Layer]]
) -> None:
    """`uncommit` those of the missing shards that have a manifest all the same.

    Each is looked at again: a run beside this one may have made it anew since.
    """
    store, damaged = open_store(cache), dict[Layer, list[int]]()
    for shard, layers in missing.items():
        for layer in layers:
            there = shard in committed.of(layer) or (layer.folder, shard) in committed.damaged
            if there and _verify_part(store, layer, shard, full=False).problems:
                damaged.setdefault(layer, []).append(shard)
    for layer, found in damaged.items():
        uncommit(store, layer, found)


def layers_in(cache: Place) -> list[Layer]:
    """Every layer of a cache, each once, whichever of its plans name it. Raises as `Plan.load`."""
    return [*{x.folder: x for plan in all_plans(cache).values() for x in plan.layers}.values()]


def _verify(cache: Store, full: bool, run: Map) -> tuple[VerifyReport, list[ShardReport]]:
    plans = all_plans(cache)
    check = _Check(cache, full)
    done = [(layer, set(committed_shards(cache, layer))) for layer in check.layers]
    reports = [*run(check, sorted(set().union(*(has for _, has in done))))]
    main = plans[PLAN]
    missing = sorted({s for _, has in done for s in range(main.num_shards) if s not in has})
    shared = [
        problem for layer, has in done for problem in _layer_problems(cache, layer, has, reports)
    ]
    shared += [problem for plan in plans.values() for problem in _metadata_problems(cache, plan)]
    report = VerifyReport(
        cache=main.id,
        full=full,
        shards=len(reports),
        files=sum(report.files for report in reports),
        bytes=sum(report.bytes for report in reports),
        bad_shards=tuple(report.shard for report in reports if report.problems),
        missing=tuple(missing),
        problems=(*(p for report in reports for p in report.problems), *dict.fromkeys(shared)),
        complete=all(is_complete(cache, plan) for plan in plans.values()),
    )
    return report, reports


def _by_layer(reports: Iterable[ShardReport]) -> dict[str, list[int]]:
    """Damaged shards by the folder of their layer."""
    found: dict[str, list[int]] = {}
    for report in reports:
        for folder in report.layers:
            found.setdefault(folder, []).append(report.shard)
    return found


@dataclass
class _Check:
    """The check of one shard with the cache's layers bound; pickles without them."""

    cache: Store
    full: bool

    def __post_init__(self) -> None:
        self.layers = layers_in(self.cache)

    def __reduce__(self) -> tuple[type["_Check"], tuple[Store, bool]]:
        return type(self), (self.cache, self.full)

    def __call__(self, shard: int) -> ShardReport:
        there = [
            layer for layer in self.layers if exists(self.cache, manifest_key(layer.folder, shard))
        ]
        parts = {layer.folder: _verify_part(self.cache, layer, shard, self.full) for layer in there}
        return ShardReport(
            shard,
            tuple(problem for part in parts.values() for problem in part.problems),
            layers=tuple(folder for folder, part in parts.items() if part.problems),
            checks={folder: part.check for folder, part in parts.items()},
            files=sum(part.files for part in parts.values()),
            bytes=sum(part.bytes for part in parts.values()),
        )


@dataclass(frozen=True)
class _Part:
    """Outcome of the check of one layer's part of a shard."""

    problems: tuple[tuple[str, str], ...]
    check: str = ""
    files: int = 0
    bytes: int = 0


def _verify_part(cache: Store, layer: Layer, shard: int, full: bool) -> _Part:
    try:
        manifest = read_manifest(cache, layer, shard)
    except CacheError as error:
        return _Part(((manifest_key(layer.folder, shard), str(error)),))
    wrong_size = damaged_files(cache, layer, [manifest]).get(shard, [])
    bad = {slot for slot, _, _ in manifest.bad}
    good = [slot not in bad for slot in range(len(layer.rows(shard)))]
    problems: list[tuple[str, str]] = []
    for spec in layer.arrays:
        key = shard_key(spec, shard)
        try:
            if spec.name in wrong_size:
                raise CacheError(f"missing or not {manifest.files[spec.name].bytes} bytes")
            file = ShardFile(cache, key, spec, layer.shard_size)
            if full and cache.digest(key)[1] != manifest.files[spec.name].xxh3:
                raise CacheError("bytes differ from the manifest's xxh3_64")
            if [file.has(slot) for slot in range(len(good))] != good:
                raise CacheError("rows present are not the manifest's good images")
        except CacheError as error:
            problems.append((key, str(error)))
    total = sum(file.bytes for file in manifest.files.values())
    return _Part(tuple(problems), manifest.check, len(manifest.files), total)


def _metadata_problems(cache: Store, plan: Plan) -> Iterator[tuple[str, str]]:
    for name, data in documents(plan).items():
        try:
            found = read_file(cache, name, MAX_META_BYTES)
            if check_document(found, cache.where(name), data) != "same":
                raise CacheError("its codecs are not the plan's")
        except CacheError as error:
            yield name, str(error)


def _layer_problems(
    cache: Store, layer: Layer, done: set[int], reports: Iterable[ShardReport]
) -> Iterator[tuple[str, str]]:
    """Faults of a layer's own files: records that are gone, layer.json, the index, the columns."""
    name = f"{layer.folder}/{LAYER}"
    try:
        if read_file(cache, name, len(layer.data) + 1) != layer.data:
            raise CacheError("is not that of its plan")
    except CacheError as error:
        yield name, str(error)
    if not exists(cache, f"{layer.folder}/{COMPLETE}"):
        return
    for shard in range(layer.num_shards):  # complete layers had all their records once
        if shard not in done:
            gone = manifest_key(layer.folder, shard)
            yield gone, f"missing, but the layer has its {COMPLETE}"
    name = f"{layer.folder}/{INDEX}"
    try:
        index = open_index(cache, layer)
    except CacheError as error:
        yield name, str(error)
        return
    # A manifest that is itself damaged has no check and is already reported.
    checks = {report.shard: report.checks.get(layer.folder, "") for report in reports}
    differ = [s for s, check in enumerate(index.manifests) if checks.get(s, "") not in ("", check)]
    if differ:
        yield name, f"names another manifest for shards {differ[:5]}"
    for spec in columns_of(layer) if len(layer.images) else ():
        key = column_key(layer, spec)
        try:
            data = read_file(cache, key, MAX_INDEX_BYTES)
            if xxhash.xxh3_64_hexdigest(data) != index.columns.get(spec.name):
                raise CacheError("differs from the index")
        except CacheError as error:
            yield key, str(error)
