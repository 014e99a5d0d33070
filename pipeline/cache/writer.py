"""Write one shard: every file atomic and durable, the manifests last.

`write_shard` is idempotent: the same plan and rows give byte-equal files, so a shard may be written
twice or by two processes at once without harm. No file is ever replaced: of two writers whose bytes
differ (two kinds of GPU, say) one commits and the other is told of both. What a dead writer left
without a manifest is deleted once that writer is known to be gone, or after `LEASE_S`, within half
of which every writer ends its attempt.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from ..display import counted, shorten, show
from ..errors import CacheError, ImageError, MissingError
from ..io.json_files import canonical
from ..records import ImageRow, Quarantined, Superpixels
from ..store import (
    ChangedError,
    Created,
    OtherBytesError,
    Parts,
    Place,
    Store,
    open_store,
    this_writer,
    writer_is_gone,
)
from .image_list import PlanImage
from .layers import CLS, FEATURES, LAYERS, POOLED, SAM, SUPERPIXELS, Layer
from .layout import exists, log_key, manifest_key, shard_key
from .manifest import FileEntry, Manifest, read_manifest
from .plan import Plan
from .row_codec import Array, row_arrays
from .shard_file import encode_shard

# They only wait for the disk or the network, which take several requests in one go.
WRITE_THREADS = 4
# Seconds after which a file that no manifest names has no writer any more. A writer that takes half
# as long for one shard gives up instead of committing.
LEASE_S = 1200.0


@dataclass
class _Part:
    """A layer's part of a shard: arrays by name of each image, None where it is quarantined."""

    layer: Layer
    arrays: list[dict[str, Array] | None] = field(default_factory=list)
    bad: list[tuple[int, str, str]] = field(default_factory=list)
    found: list[Superpixels | None] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)  # keys of the files that this attempt made


def write_shard(
    cache: Place,
    plan: Plan,
    shard: int,
    rows: Sequence[ImageRow | Quarantined],
    info: Mapping[str, object],
    layers: Sequence[Layer] | None = None,
    *,
    who: str = "",
) -> dict[str, Manifest]:
    """Commit shard `shard`: `rows` are its images in the plan's order.

    A row that a layer cannot store (too many superpixels, RLE over the plan's width, NaN) is
    recorded there as quarantined with its reason, never cut. `info` (JSON values: seconds, host,
    tries) goes to logs/<shard>.json and is no part of the cache's content.

    layers  of the plan to write, None: all; the others' values in `rows` are not looked at
    who     this writer, as another one is told that has computed other bytes

    Returns the committed manifests by the layer's folder. Raises OtherBytesError if another writer
    has made files of the shard with other bytes, CacheError if the place refuses or if the rows are
    not this shard's.
    """
    images = plan.shard(shard)
    if len(rows) != len(images):
        raise CacheError(
            f"shard {shard}: {counted(len(rows), 'row')} for {counted(len(images), 'image')}"
        )
    parts = _prepare(plan, images, rows, plan.layers if layers is None else layers)

    # A manifest commits a layer's shard, so it comes after everything it vouches for is durable: a
    # process that dies before leaves files which the next attempt finds equal, or clears.
    store, who, began = open_store(cache), who or this_writer(), time.monotonic()
    _write_arrays(store, plan, shard, parts, who)
    log = canonical({"shard": shard, **info})
    store.replace(log_key(shard), log, label="log", shard=shard)
    written = {part.layer.folder: _manifest(part, shard).sealed() for part in parts}
    for part in parts:
        if time.monotonic() - began > LEASE_S / 2:
            raise CacheError(
                f"{show(store.where(), 300)}: shard {shard}: writing took over {LEASE_S / 2:.0f} s: "
                "the disk or the network is too slow: make the cache elsewhere, then `svp cache copy` it here"
            )
        _commit(store, part, shard, written[part.layer.folder], who)
    return written


def _commit(store: Store, part: _Part, shard: int, manifest: Manifest, who: str) -> None:
    """Create the manifest of a layer's shard."""
    key = manifest_key(part.layer.folder, shard)
    try:
        label = f"manifest-{part.layer.kind}"
        store.create(key, [manifest.data()], who=who, label=label, shard=shard)
    except OtherBytesError:
        # Another writer's commit stands. Files of ours in places that were empty are not its files.
        theirs: dict[str, FileEntry] = {}
        with suppress(CacheError):
            theirs = read_manifest(store, part.layer, shard).files
        for spec in part.layer.arrays:
            own = part.files[spec.name]
            if shard_key(spec, shard) in part.made and theirs.get(spec.name) != own:
                store.delete(shard_key(spec, shard))
        raise


def _prepare(
    plan: Plan,
    images: Sequence[PlanImage],
    rows: Sequence[ImageRow | Quarantined],
    layers: Sequence[Layer],
) -> list[_Part]:
    parts = [_Part(layer) for layer in layers]
    absent = {LAYERS, CLS, SAM} - {layer.kind for layer in plan.layers}
    absent -= {LAYERS} if plan.thin else set()
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
            own = (FEATURES, LAYERS) if kind == POOLED and plan.thin else (FEATURES,)
            own = own if kind == POOLED else (kind,)
            made_of = (*own, *(need.kind for need in part.layer.needs))
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


def _write_arrays(store: Store, plan: Plan, shard: int, parts: Sequence[_Part], who: str) -> None:
    """Every shard file, durable on return: one is encoded while the place takes those before it."""
    writes: list[tuple[_Part, str, str, Future[Created]]] = []
    with ThreadPoolExecutor(WRITE_THREADS, "svp-write") as pool:
        for part in parts:
            manifest = manifest_key(part.layer.folder, shard)
            for spec in part.layer.arrays:
                column = [row[spec.name] if row else None for row in part.arrays]
                buffers, key = encode_shard(spec, column, plan.shard_size), shard_key(spec, shard)
                write = pool.submit(
                    _create, store, key, buffers, manifest, who=who, label=spec.name, shard=shard
                )
                writes.append((part, spec.name, key, write))
    for part, name, key, write in writes:
        found = write.result()
        part.files[name] = FileEntry(bytes=found.bytes, xxh3=found.xxh3)
        part.made += [key] if found.made else []


def _create(
    store: Store, key: str, parts: Parts, manifest: str, *, who: str, label: str, shard: int
) -> Created:
    """`Store.create`; what a dead writer left in its place, with other bytes, is deleted before."""
    while True:
        try:
            return store.create(key, parts, who=who, label=label, shard=shard)
        except OtherBytesError:
            # Another successor of the dead writer may clear the place at the same moment, and its
            # file, of a living writer, is then the one that is there.
            with suppress(MissingError, ChangedError):
                found = store.stat(key)
                old = time.time() - found.made > LEASE_S
                gone = found.maker == who or writer_is_gone(found.maker)
                if exists(store, manifest) or not (old or gone):
                    raise
                store.delete(key, if_match=found.tag)


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
