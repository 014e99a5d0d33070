"""Find damaged shards and un-commit exactly those, so that a rerun makes only them again.

`full` hashes every byte; without it only sizes, records and shard indices are looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from ..display import Report, counted, show
from ..errors import CacheError
from ..io.atomic import make_folder, remove_stale, sync_folders
from ..io.json_files import read_bounded
from ..io.paths import refuse_links
from .create import write_metadata
from .index import column_files, finalize, read_index
from .layout import COMPLETE, INDEX, MANIFESTS, PLAN, manifest_path, shard_path
from .manifest import committed_shards, damaged_files, read_committed, read_manifest
from .plan import Plan
from .shard_file import ShardFile
from .zarr_metadata import check_document, documents

BLOCK = 1 << 20
Map = Callable[[Callable[[int], "ShardReport"], Iterable[int]], Iterable["ShardReport"]]


@dataclass(frozen=True)
class ShardReport:
    """Faults of one shard: (file relative to the cache, cause) pairs; empty if sound."""

    shard: int
    problems: tuple[tuple[str, str], ...]
    check: str = ""  # the manifest's, to compare with the index
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class VerifyReport(Report):
    """The outcome of `verify`.

    problems   (file relative to the cache, why), damaged shards first, then shared files
    bad_shards shards with a problem of their own
    missing    shards that are not committed (no damage: the build is not done)
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


def verify(path: Path, full: bool = False, run: Map = map) -> VerifyReport:
    """Check a cache. `run` maps the per-shard check: `map`, a pool's, or a cluster's.

    Raises MissingError if there is no cache, CacheError if plan.json itself is damaged (nothing
    else can be judged then).
    """
    cache = Path(path)
    plan = Plan.load(cache / PLAN)
    done = committed_shards(cache, plan)
    check = _Check(cache, full)
    reports = [report for report in run(check, done)]
    checks = {report.shard: report.check for report in reports}
    missing = tuple(sorted(set(range(plan.num_shards)) - set(done)))
    complete = (cache / COMPLETE).exists()
    lost = missing if complete else ()  # complete caches had all their records once
    shared = [
        *((f"{MANIFESTS}/{s}.json", f"missing, but the cache has its {COMPLETE}") for s in lost),
        *_metadata_problems(cache, plan),
        *_index_problems(cache, plan, checks),
    ]
    return VerifyReport(
        cache=plan.id,
        full=full,
        shards=len(done),
        files=sum(report.files for report in reports),
        bytes=sum(report.bytes for report in reports),
        bad_shards=tuple(report.shard for report in reports if report.problems),
        missing=missing,
        problems=(*(p for report in reports for p in report.problems), *shared),
        complete=complete,
    )


def verify_shard(cache: Path, shard: int, full: bool = True) -> ShardReport:
    """Check one committed shard: its manifest, files and, if `full`, every byte."""
    return _verify_shard(cache, Plan.load(cache / PLAN), shard, full)


def repair(path: Path) -> list[int]:
    """Un-commit the shards that a full check finds damaged; returns their numbers.

    Also rewrites damaged zarr.json files, drops leftovers of dead writers and, if no shard is
    missing, rewrites the index. Run the same `svp precompute` afterwards.
    """
    cache = Path(path)
    plan = Plan.load(cache / PLAN)
    report = verify(cache, full=True)
    remove_stale(cache)
    if report.problems:
        uncommit(cache, report.bad_shards)
        write_metadata(cache, plan)
    if report.problems and not report.bad_shards and not report.missing:
        finalize(cache, plan, read_committed(cache, plan))
    return list(report.bad_shards)


def uncommit(cache: Path, shards: Iterable[int]) -> None:
    """Take back the commit of `shards` (and COMPLETE and the index), durably, data files kept.

    The order matters: a crash in between leaves a cache that is merely incomplete.
    """
    for path in (cache / COMPLETE, cache / INDEX):  # while COMPLETE exists the index is trusted
        path.unlink(missing_ok=True)
        sync_folders([cache])
    folder = manifest_path(cache, 0).parent
    make_folder(folder, cache)
    for shard in shards:
        manifest_path(cache, shard).unlink(missing_ok=True)
    sync_folders([folder])


@dataclass
class _Check:
    """`verify_shard` with its plan bound; pickles without the plan."""

    cache: Path
    full: bool

    def __post_init__(self) -> None:
        self._plan = Plan.load(self.cache / PLAN)

    def __reduce__(self) -> tuple[type["_Check"], tuple[Path, bool]]:
        return type(self), (self.cache, self.full)

    def __call__(self, shard: int) -> ShardReport:
        return _verify_shard(self.cache, self._plan, shard, self.full)


def _verify_shard(cache: Path, plan: Plan, shard: int, full: bool) -> ShardReport:
    try:
        manifest = read_manifest(cache, plan, shard)
    except CacheError as error:
        name = str(manifest_path(cache, shard).relative_to(cache))
        return ShardReport(shard, ((name, str(error)),))
    wrong_size = set(damaged_files(cache, plan, manifest))
    good = [entry.status == "ok" for entry in manifest.images]
    problems: list[tuple[str, str]] = []
    for spec in plan.arrays:
        path = shard_path(cache, spec, shard)
        try:
            if spec.name in wrong_size:
                raise CacheError(f"missing or not {manifest.files[spec.name].bytes} bytes")
            refuse_links(cache, path)
            file = ShardFile(path, spec, plan.shard_size)
            if full and _hash(path) != manifest.files[spec.name].xxh3:
                raise CacheError("bytes differ from the manifest's xxh3_64")
            if [file.has(slot) for slot in range(len(good))] != good:
                raise CacheError("rows present are not the manifest's good images")
        except CacheError as error:
            problems.append((str(path.relative_to(cache)), str(error)))
    total = sum(file.bytes for file in manifest.files.values())
    return ShardReport(shard, tuple(problems), manifest.check, len(manifest.files), total)


def _hash(path: Path) -> str:
    """xxh3_64 of a file, hex, in constant memory."""
    digest, buffer = xxhash.xxh3_64(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def _metadata_problems(cache: Path, plan: Plan) -> Iterator[tuple[str, str]]:
    for name, data in documents(plan).items():
        try:
            if check_document(cache / name, data) != "same":
                raise CacheError("its codecs are not the plan's")
        except CacheError as error:
            yield name, str(error)


def _index_problems(cache: Path, plan: Plan, checks: dict[int, str]) -> Iterator[tuple[str, str]]:
    if not (cache / COMPLETE).exists():
        return
    try:
        rows = read_index(cache, plan)
    except CacheError as error:
        yield INDEX, str(error)
        return
    # A manifest that is itself damaged has no check and is already reported.
    differ = [s for s, check in enumerate(rows.checks) if checks.get(s, "") not in ("", check)]
    if differ:
        yield INDEX, f"names another manifest for shards {differ[:5]}"
    for path, data in column_files(cache, plan, rows):
        try:
            if read_bounded(path, len(data)) != data:
                raise CacheError("differs from the index")
        except CacheError as error:
            yield str(path.relative_to(cache)), str(error)
