"""Write one shard: every file atomic and durable, the manifest last.

`write_shard` is idempotent: the same plan and rows give byte-equal files, so a shard may be written
twice or by two processes at once without harm.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..display import counted, shorten
from ..errors import CacheError, ImageError
from ..io.atomic import TempFile, make_folder, sync_folder, write_file, write_temp
from ..io.json_files import canonical
from ..records import ImageRow, Quarantined
from .layout import log_path, manifest_path, shard_path
from .manifest import OK, QUARANTINED, FileEntry, ImageEntry, Manifest
from .plan import Plan, PlanImage
from .row_codec import Array, row_arrays
from .shard_file import encode_shard

# They only wait for the disk, which commits several requests in one go.
SYNC_THREADS = 4


def write_shard(
    cache: Path,
    plan: Plan,
    shard: int,
    rows: Sequence[ImageRow | Quarantined],
    info: Mapping[str, object],
) -> Manifest:
    """Commit shard `shard`: `rows` are its images in the plan's order.

    A row that cannot be stored (too many superpixels, RLE over the plan's width, NaN) is recorded
    as quarantined with its reason, never cut. `info` (JSON values: seconds, host, tries) goes to
    logs/<shard>.json and is no part of the cache's content.

    Returns the committed manifest. Raises CacheError if the disk refuses (nothing is committed) or
    if the rows are not this shard's.
    """
    images = plan.shard(shard)
    if len(rows) != len(images):
        raise CacheError(
            f"shard {shard}: {counted(len(rows), 'row')} for {counted(len(images), 'image')}"
        )
    arrays, entries = _prepare(plan, images, rows)

    # The manifest commits the shard, so it comes after everything it vouches for is durable: a
    # process that dies before leaves files which the next attempt replaces by equal ones.
    files = _write_arrays(cache, plan, shard, arrays)
    manifest = Manifest(cache=plan.id, shard=shard, files=files, images=entries).sealed()
    _write_json(log_path(cache, shard), cache, {"shard": shard, **info}, "log", shard)
    _write_json(
        manifest_path(cache, shard), cache, manifest.model_dump(mode="json"), "manifest", shard
    )
    return manifest


def _prepare(
    plan: Plan, images: Sequence[PlanImage], rows: Sequence[ImageRow | Quarantined]
) -> tuple[list[dict[str, Array] | None], list[ImageEntry]]:
    arrays: list[dict[str, Array] | None] = []
    entries: list[ImageEntry] = []
    for image, row in zip(images, rows, strict=True):
        if row.image_id != image.image_id:
            raise CacheError(f"image {image.image_id}: got the row of image {row.image_id}")
        stored: dict[str, Array] | None = None
        if isinstance(row, ImageRow):
            try:
                stored = row_arrays(plan, image, row)
            except ImageError as error:
                row = Quarantined(image.image_id, error.reason, str(error))
        arrays.append(stored)
        entries.append(_entry(image, row))
    return arrays, entries


def _write_arrays(
    cache: Path, plan: Plan, shard: int, rows: Sequence[dict[str, Array] | None]
) -> dict[str, FileEntry]:
    """Every shard file, durable on return. The disk syncs one file while the next is encoded."""
    # Each file is written under a temporary name, then renamed by a thread of the pool: an array is
    # encoded while the disk still commits those before it.
    temps: list[TempFile] = []
    folders: set[Path] = set()
    pool = ThreadPoolExecutor(SYNC_THREADS, "svp-sync")
    try:
        commits = []
        for spec in plan.arrays:
            path = shard_path(cache, spec, shard)
            make_folder(path.parent, cache)
            folders |= {path.parents[level] for level in range(len(spec.row) + 2)}
            column = [row[spec.name] if row else None for row in rows]
            buffers = encode_shard(spec, column, plan.shard_size)
            temps.append(write_temp(path, buffers, label=spec.name, shard=shard))
            commits.append(pool.submit(temps[-1].commit))
        # A rename is durable only once its folder is, so the folders come last.
        for commit in commits:
            commit.result()
        list(pool.map(sync_folder, sorted(folders)))
    finally:
        pool.shutdown(wait=True)
        for temp in temps:
            temp.discard()
    return {temp.label: FileEntry(bytes=temp.bytes, xxh3=temp.xxh3) for temp in temps}


def _entry(image: PlanImage, row: ImageRow | Quarantined) -> ImageEntry:
    entry = ImageEntry(
        id=image.image_id, h=image.height, w=image.width, k=0, status=QUARANTINED, reason="unknown"
    )
    if isinstance(row, Quarantined):
        reason, detail = shorten(row.reason or "unknown", 64), shorten(row.detail, 500)
        return entry.model_copy(update={"reason": reason, "detail": detail})
    found = row.superpixels
    done = {
        "k": len(found),
        "status": OK,
        "reason": "",
        "fallback": found.fallback,
        "survivors": {name: int(found.survivors[name]) for name in sorted(found.survivors)},
    }
    return entry.model_copy(update=done)


def _write_json(path: Path, cache: Path, value: object, label: str, shard: int) -> None:
    make_folder(path.parent, cache)
    write_file(path, canonical(value), label=label, shard=shard)
