"""Write one shard: every file atomic and durable, the manifests last.

`write_shard` is idempotent: the same plan and rows give byte-equal files, so a shard may be written
twice or by two processes at once without harm.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..display import counted, shorten
from ..errors import CacheError, ImageError
from ..io.atomic import TempFile, make_folder, sync_folder, write_file, write_temp
from ..io.json_files import canonical
from ..records import ImageRow, Quarantined, Superpixels
from .image_list import PlanImage
from .layers import CLS, FEATURES, LAYERS, POOLED, SAM, SUPERPIXELS, Layer
from .layout import log_path, manifest_path, shard_path
from .manifest import FileEntry, Manifest
from .plan import Plan
from .row_codec import Array, row_arrays
from .shard_file import encode_shard

# They only wait for the disk, which commits several requests in one go.
SYNC_THREADS = 4


@dataclass
class _Part:
    """A layer's part of a shard: arrays by name of each image, None where it is quarantined."""

    layer: Layer
    arrays: list[dict[str, Array] | None] = field(default_factory=list)
    bad: list[tuple[int, str, str]] = field(default_factory=list)
    found: list[Superpixels | None] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)


def write_shard(
    cache: Path,
    plan: Plan,
    shard: int,
    rows: Sequence[ImageRow | Quarantined],
    info: Mapping[str, object],
    layers: Sequence[Layer] | None = None,
) -> dict[str, Manifest]:
    """Commit shard `shard`: `rows` are its images in the plan's order.

    A row that a layer cannot store (too many superpixels, RLE over the plan's width, NaN) is
    recorded there as quarantined with its reason, never cut. `info` (JSON values: seconds, host,
    tries) goes to logs/<shard>.json and is no part of the cache's content.

    layers  of the plan to write, None: all; the others' values in `rows` are not looked at

    Returns the committed manifests by the layer's folder. Raises CacheError if the disk refuses or
    if the rows are not this shard's.
    """
    images = plan.shard(shard)
    if len(rows) != len(images):
        raise CacheError(
            f"shard {shard}: {counted(len(rows), 'row')} for {counted(len(images), 'image')}"
        )
    parts = _prepare(plan, images, rows, plan.layers if layers is None else layers)

    # A manifest commits a layer's shard, so it comes after everything it vouches for is durable: a
    # process that dies before leaves files which the next attempt replaces by equal ones.
    _write_arrays(cache, plan, shard, parts)
    _write_json(log_path(cache, shard), cache, {"shard": shard, **info}, "log", shard)
    written = {part.layer.folder: _manifest(part, shard).sealed() for part in parts}
    for part in parts:
        path = manifest_path(cache, part.layer.folder, shard)
        value = written[part.layer.folder].model_dump(mode="json")
        _write_json(path, cache, value, f"manifest-{part.layer.kind}", shard)
    return written


def _prepare(
    plan: Plan,
    images: Sequence[PlanImage],
    rows: Sequence[ImageRow | Quarantined],
    layers: Sequence[Layer],
) -> list[_Part]:
    parts = [_Part(layer) for layer in layers]
    absent = {LAYERS, CLS, SAM} - {layer.kind for layer in plan.layers}
    for slot, (image, row) in enumerate(zip(images, rows, strict=True)):
        if row.image_id != image.image_id:
            raise CacheError(f"image {image.image_id}: got the row of image {row.image_id}")
        if odd := sorted(name for name in absent if getattr(row, name, None) is not None):
            raise CacheError(f"image {row.image_id}: {odd[0]} does not go with the plan's recipe")
        bad: dict[str, Quarantined] = {}  # a layer made from another is bad where that one is
        for part in parts:
            kind = part.layer.kind
            arrays = None
            # The means are those of the features, whose refusal is theirs.
            own = FEATURES if kind == POOLED else kind
            made_of = (own, *(need.kind for need in part.layer.needs))
            refused = (
                row
                if isinstance(row, Quarantined)
                else next((row.refused[one] for one in made_of if one in row.refused), None)
            )
            refused = refused or next(
                (bad[n.kind] for n in part.layer.needs if n.kind in bad), None
            )
            if refused is None and isinstance(row, ImageRow):
                try:
                    arrays = row_arrays(plan, part.layer, image, row)
                except ImageError as error:
                    refused = Quarantined(image.image_id, error.reason, str(error))
            if refused is not None:
                bad[kind] = refused
                reason = shorten(refused.reason or "unknown", 64)
                part.bad.append((slot, reason, shorten(refused.detail, 500)))
            part.arrays.append(arrays)
            good = isinstance(row, ImageRow) and arrays is not None and kind == SUPERPIXELS
            part.found.append(row.superpixels if good and isinstance(row, ImageRow) else None)
    return parts


def _write_arrays(cache: Path, plan: Plan, shard: int, parts: Sequence[_Part]) -> None:
    """Every shard file, durable on return. The disk syncs one file while the next is encoded."""
    # Each file is written under a temporary name, then renamed by a thread of the pool: an array is
    # encoded while the disk still commits those before it.
    temps: list[tuple[_Part, TempFile]] = []
    folders: set[Path] = set()
    pool = ThreadPoolExecutor(SYNC_THREADS, "svp-sync")
    try:
        commits = []
        for part in parts:
            for spec in part.layer.arrays:
                path = shard_path(cache, spec, shard)
                make_folder(path.parent, cache)
                folders |= {path.parents[level] for level in range(len(spec.row) + 4)}
                column = [row[spec.name] if row else None for row in part.arrays]
                buffers = encode_shard(spec, column, plan.shard_size)
                temp = write_temp(path, buffers, label=spec.name, shard=shard)
                temps.append((part, temp))
                commits.append(pool.submit(temp.commit))
        # A rename is durable only once its folder is, so the folders come last.
        for commit in commits:
            commit.result()
        list(pool.map(sync_folder, sorted(folders)))
    finally:
        pool.shutdown(wait=True)
        for _, temp in temps:
            temp.discard()
    for part, temp in temps:
        part.files[temp.label] = FileEntry(bytes=temp.bytes, xxh3=temp.xxh3)


def _manifest(part: _Part, shard: int) -> Manifest:
    found = part.found if part.layer.kind == SUPERPIXELS else []
    steps = sorted({step for one in found if one for step in one.survivors})
    return Manifest(
        layer=part.layer.id,
        shard=shard,
        files=part.files,
        bad=part.bad,
        k=[len(one) if one else 0 for one in found],
        fallback=[slot for slot, one in enumerate(found) if one and one.fallback],
        survivors={
            step: [int(one.survivors.get(step, 0)) if one else 0 for one in found] for step in steps
        },
    )


def _write_json(path: Path, cache: Path, value: object, label: str, shard: int) -> None:
    make_folder(path.parent, cache)
    write_file(path, canonical(value), label=label, shard=shard)
