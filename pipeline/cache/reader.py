"""Read a cache: rows by offset from the shard files, without a Zarr library.

Standard Zarr readers spend ten times as long per row as the disk cache does; these reads are one
`preadv` into the caller's buffer. A reader can be shared by threads, forked and pickled. It trusts
only committed shards, so it works on a cache that is still being made.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from threading import local
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..display import show
from ..errors import CacheError, ConfigError
from ..io.binary import empty, round_into
from ..records import Quarantined, Superpixels
from ..store import FolderStore, Place, Read, WholeFile, as_place, open_store
from .index import BAD, GOOD, Rows, load_rows
from .layers import SUPERPIXELS, Layer
from .layout import META, PLAN, read_file, shard_key
from .manifest import Manifest, read_manifest
from .plan import Plan
from .row_codec import stored_features, stored_sam
from .row_reader import Status
from .row_tier import RowTier, TierFile, TierLayer
from .schema import ArraySpec, spec_of
from .shard_file import CRC_BYTES, OpenFiles, ShardFile, read_with_zarr
from .superpixel_rows import superpixels_of_slot
from .zarr_metadata import MAX_META_BYTES, array_metadata, check_document

Array = NDArray[Any]
Verify = Literal["first", "always", "off"]
OPENING = 32  # shard files of an object store that are opened at once


class _Fetched(local):
    """Rows that this thread has fetched by array and row, with their crc32c until it is compared."""

    rows: Mapping[tuple[str, int], tuple[Array, bytearray | None]] = MappingProxyType({})


class CacheReader:
    """Random access to the rows of one cache.

    view      key of its plan: plan.json, or a file of `views/`
    plan      the plan read
    ids       (N,) int64 image ids; row i of every array is image ids[i]
    index_of  image id -> row
    rows      outcome of every image, by row

    verify: check a feature row's crc32c at its first read, always, or never. Rows of the
    compressed arrays carry a checksum that is always checked.

    A cache on an object store is read like a folder; every single read is a request there, many rows
    at once are `gather`'s. With `tier` they are kept on a disk of this machine, too.

    Raises MissingError if there is no cache at `path`, CacheError if it is damaged. Every method
    raises CacheError naming the image and the file when a row cannot be trusted.
    """

    def __init__(
        self,
        path: Place | str,
        verify: Verify = "first",
        view: str = PLAN,
        tier: RowTier | None = None,
    ) -> None:
        if verify not in ("first", "always", "off"):
            raise ConfigError(f"verify={show(verify)}: use first, always or off")
        self.path, self.store = as_place(path), open_store(path)
        self.verify, self.view = verify, view
        self.plan = Plan.load(self.store, view)
        self._tier = None if isinstance(self.store, FolderStore) else tier
        self._kept: dict[str, TierLayer] = {}  # by the layer's folder
        self.rows = load_rows(self.store, self.plan, each=self._keep)
        self._status = self.rows.status.tobytes()  # an item of bytes costs a third of an array's
        self._small = self.plan.recipe.features.stored != "float16"
        self._specs = {spec.name: spec for spec in self.plan.arrays}
        self._ours: dict[str, bool] = {}  # array -> whether its chunks are as we write them
        self._checked: dict[str, bytearray] = {}
        self._files, self._fetched = OpenFiles(), _Fetched()
        self._last: Manifest | None = None

    def __reduce__(self) -> tuple[type["CacheReader"], tuple[Place, Verify, str, RowTier | None]]:
        return type(self), (self.path, self.verify, self.view, self._tier)

    def __len__(self) -> int:
        return len(self.plan.images)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """(N,) image ids by row."""
        return self.plan.images.id

    @cached_property
    def index_of(self) -> Mapping[int, int]:
        """Image id -> row."""
        return self.plan.images.row_of

    @cached_property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """The images that could not be processed, by row."""
        images, bad = self.plan.images, self.rows.bad
        return tuple(Quarantined(images[row].image_id, *bad[row]) for row in sorted(bad))

    @property
    def complete(self) -> bool:
        """Whether every shard is committed and the cache was finalised."""
        return self.rows.complete

    @property
    def counts(self) -> NDArray[np.uint16]:
        """(N,) superpixels per image, 0 unless ok."""
        return self.rows.k

    def count(self, i: int) -> int:
        """Superpixels n of row `i`, 0 unless ok."""
        return int(self.rows.k[i])

    most = count

    def status(self, i: int) -> Status:
        """Status of row `i`."""
        code = self._status[i]
        return "ok" if code == GOOD else "quarantined" if code == BAD else "missing"

    def features(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(P,C) float16 patch features of row `i`, into `out` if given (C-contiguous)."""
        if self._small:
            return _rounded(stored_features(self.plan, partial(self._used, i)), out)
        return self._read("dino", i, out)

    def pooled(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(n,C) float16 mean of the patch features under each superpixel, by coverage.

        Of a thin cache with L more maps (n,(1+L)*C): their means follow.

        out  (K,C), zeros behind the n rows; the result is a part of it
        """
        rows = self._read("pooled", i, out)[: self.count(i)]
        return rows.copy() if out is None else rows

    def cover(self, i: int) -> NDArray[np.float16]:
        """(n,P) float16 share of each patch that each of the n superpixels covers."""
        rows = self._read("cover", i)
        return rows[: self.count(i)].copy()

    def sspe_masks(self, i: int) -> NDArray[np.uint8]:
        """(n,ceil(G/8)) uint8 bit-packed masks on the SSPE grid, high bit first."""
        rows = self._read("sspe_masks", i)
        return rows[: self.count(i)].copy()

    def areas(self, i: int) -> NDArray[np.int32]:
        """(n,) int32 pixels of each superpixel."""
        return self._read("area", i)[: self.count(i)].copy()

    def order(self, i: int) -> NDArray[np.uint16]:
        """(n,) the superpixels of row `i`, the first to be kept first."""
        return self._read("order", i)[: self.count(i)].copy()

    def worth(self, i: int) -> NDArray[np.float16]:
        """(n,) worth of each superpixel in [0,1], see `pipeline.cache.worth`."""
        return self._read("worth", i)[: self.count(i)].copy()

    def layers(self, i: int) -> NDArray[np.float16]:
        """(L,P,C) float16 extra encoder layers."""
        return self._read("layers", i)

    def cls(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(C,) float16 CLS token, into `out` if given (C-contiguous)."""
        return self._read("cls", i, out)

    def sam(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """SAM image embedding, float16, of shape `plan.sam`, into `out` if given (C-contiguous)."""
        if self.plan.sam_int8:
            return _rounded(stored_sam(self.plan, lambda name: self._read(name, i)), out)
        return self._read("sam", i, out)

    def gather(
        self, rows: Sequence[int], into: Mapping[str, Sequence[Array]], beside: Sequence[str] = ()
    ) -> None:
        """Fields of many rows at once: on an object store with all requests in flight.

        into    `features`, `pooled`, `cls` or `sam` -> for each row an array to fill, C-contiguous
        beside  arrays whose values of these rows are asked for next: of a store their files are
                fetched here, side by side
        """
        stored = [name for field in into for name in self._stored_as(field)]
        if not isinstance(self.store, FolderStore):
            self._fetch(rows, into, [*stored, *beside])
        try:
            for at, i in enumerate(rows):
                for field, outs in into.items():
                    getattr(self, field)(i, outs[at])
        finally:
            self._fetched.rows = {}

    def _stored_as(self, field: str) -> tuple[str, ...]:
        if field == "sam":
            return ("sam_q8", "sam_scale") if self.plan.sam_int8 else ("sam",)
        if field != "features":
            return (field,)
        if self.plan.mean_int4:
            return ("cover", "pooled", "dino_q4", "dino_scale")
        return ("dino_q8", "dino_scale") if self.plan.int8 else ("dino",)

    def _fetch(
        self, rows: Sequence[int], into: Mapping[str, Sequence[Array]], names: Sequence[str]
    ) -> None:
        """Open the shard files of the rows, then read the rows that are not small, all in flight."""
        size, count = self.plan.shard_size, len(self._status)
        # Rows that cannot be had are told of when they are read; one that is wanted twice is fetched once.
        good = [i for i in dict.fromkeys(rows) if 0 <= i < count and self._status[i] == GOOD]
        specs = [self._specs[name] for name in dict.fromkeys(names) if name in self._specs]
        ours = [spec for spec in specs if self._is_ours(spec)]
        wanted = {(spec.name, i // size): spec for spec in ours for i in good}
        absent = [
            (spec, shard)
            for (name, shard), spec in wanted.items()
            if (name, shard) not in self._files
        ]
        if absent:
            with ThreadPoolExecutor(min(OPENING, len(absent))) as pool:
                for _ in pool.map(lambda one: self._shard_file(*one), absent):
                    pass
        targets = {
            (self._stored_as(field)[0], i): out
            for field, found in into.items()
            for i, out in zip(rows, found, strict=True)
        }
        reads: list[Read] = []
        kept: list[tuple[TierFile, Read]] = []
        fetched: dict[tuple[str, int], tuple[Array, bytearray | None]] = {}
        packed: list[tuple[ShardFile, int, int, bytearray]] = []
        for spec in ours:
            for i in good if not spec.small else ():
                shard, slot = divmod(i, size)
                file, out = self._shard_file(spec, shard), targets.get((spec.name, i))
                if spec.level is not None:
                    if not isinstance(file.file, WholeFile):
                        offset, count = file.place(slot)
                        frame = bytearray(count)
                        reads.append(Read(file.key, offset, [memoryview(frame)]))
                        packed.append((file, i, slot, frame))
                    continue
                fits = out is not None and (out.shape, out.dtype) == (spec.row, spec.numpy)
                if out is None or not fits or not out.flags.c_contiguous:
                    out = empty(spec.row, spec.numpy)
                crc, offset = bytearray(CRC_BYTES), file.place(slot)[0]
                read = Read(file.key, offset, [out.data.cast("B"), memoryview(crc)])
                if isinstance(file.file, TierFile):
                    if file.file.serve(read.views, offset):
                        fetched[spec.name, i] = out, None
                        continue
                    kept.append((file.file, read))
                reads.append(read)
                fetched[spec.name, i] = out, crc
        if reads:
            self.store.read_many(reads)
        for there, read in kept:
            there.keep(read.views, read.offset)
        for file, i, slot, frame in packed:
            out = empty(file.spec.row, file.spec.numpy)
            try:
                file.decode(slot, frame, out)
            except CacheError as error:
                raise self._blame(i, error) from None
            fetched[file.spec.name, i] = out, None
        self._fetched.rows = fetched

    def superpixels(self, i: int) -> Superpixels:
        """The superpixels of row `i`: RLE strings (not decoded, not checked) and scores."""
        if not 0 <= i < len(self._status) or self._status[i] != GOOD:
            raise self._unavailable(i)
        shard, slot = divmod(i, self.plan.shard_size)
        last = self._last  # one attribute read: another thread may replace it
        if last is None or last.shard != shard:
            layer = self.plan.layer(SUPERPIXELS)
            last = self._last = read_manifest(self.store, layer, shard)
        try:
            return superpixels_of_slot(partial(self._filled, i), last, slot, self.plan.images[i])
        except CacheError as error:
            raise self._blame(i, error) from None

    def _read(self, name: str, i: int, out: Array | None = None) -> Array:
        spec = self._specs.get(name) or spec_of(tuple(self._specs.values()), name)
        if not 0 <= i < len(self._status) or self._status[i] != GOOD:
            raise self._unavailable(i)
        if out is None:
            out = empty(spec.row, spec.numpy)
        elif out.shape != spec.row or out.dtype != spec.numpy or not out.flags.c_contiguous:
            raise ConfigError(f"out is {out.dtype}{list(out.shape)}, need {spec.dtype}{spec.row}")
        try:
            self._fill(spec, i, out)
        except CacheError as error:
            raise self._blame(i, error) from None
        return out

    def _used(self, i: int, name: str) -> Array:
        """Row `i` of an array, without the padding of superpixels."""
        row = self._read(name, i)
        return row[: self.count(i)] if self._specs[name].axes[0] == "superpixel" else row

    def _filled(self, i: int, name: str) -> Array:
        spec = self._specs[name]
        out = empty(spec.row, spec.numpy)
        self._fill(spec, i, out)
        return out

    def _fill(self, spec: ArraySpec, i: int, out: Array) -> None:
        if not self._is_ours(spec):
            read_with_zarr(self.store, spec.path, i, out)
            return
        shard, slot = divmod(i, self.plan.shard_size)
        file = self._shard_file(spec, shard)
        if (row := self._fetched.rows.get((spec.name, i))) is not None:
            found, crc = row
            if crc is not None:
                file.accept(slot, found, crc)
            if found is not out:
                out[...] = found
            return
        checked = self._checked[spec.name]
        verify = self.verify == "always" or (self.verify == "first" and not checked[i])
        file.read(slot, out, verify=verify)
        if verify:
            checked[i] = 1

    def _is_ours(self, spec: ArraySpec) -> bool:
        ours = self._ours.get(spec.name)
        return self._open_array(spec) if ours is None else ours

    def _shard_file(self, spec: ArraySpec, shard: int) -> ShardFile:
        return self._files.get((spec.name, shard), lambda: self._open(spec, shard))

    def _open_array(self, spec: ArraySpec) -> bool:
        document = array_metadata(spec, len(self), self.plan.shard_size)
        key = f"{spec.path}/{META}"
        found = read_file(self.store, key, MAX_META_BYTES)
        stored = check_document(found, self.store.where(key), document)
        self._checked[spec.name] = bytearray(len(self))
        self._ours[spec.name] = stored != "other"
        return self._ours[spec.name]

    def _open(self, spec: ArraySpec, shard: int) -> ShardFile:
        layer, key = self._kept.get(spec.layer), shard_key(spec, shard)
        kept = layer.file(spec.name, shard, self.store, key) if layer else None
        return ShardFile(self.store, key, spec, self.plan.shard_size, kept)

    def _keep(self, layer: Layer, rows: Rows) -> None:
        if self._tier is not None:
            self._kept[layer.folder] = self._tier.add(layer, rows.checks)

    def _blame(self, i: int, what: object) -> CacheError:
        return CacheError(f"image {self.plan.images[i].image_id} (row {i}): {what}")

    def _unavailable(self, i: int) -> CacheError:
        if not 0 <= i < len(self):
            return CacheError(f"row {i}: rows are 0 to {len(self) - 1}")
        if i in self.rows.bad:
            reason, detail = self.rows.bad[i]
            return self._blame(
                i,
                f"quarantined: {show(reason)}: {show(detail)}: fix the image, then "
                "`svp precompute --retry-quarantined`",
            )
        return self._blame(
            i,
            f"not computed yet in {show(str(self.path), 300)}: run the same `svp precompute` again",
        )


def _rounded(values: Array, out: NDArray[np.float16] | None) -> NDArray[np.float16]:
    """`values` as float16, in `out` if given."""
    if values.dtype == np.float16 and out is None:
        return values
    if out is None:
        out = np.empty(values.shape, np.float16)
    if values.dtype == np.float16:
        out[...] = values
    else:
        round_into(values, out)
    return out


def spread_over(items: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of `items`, evenly spaced, first and last included, in order.

    >>> spread_over(range(10), 4), spread_over([5, 6], 4), spread_over([1, 2], 0)
    ([0, 3, 6, 9], [5, 6], [])
    """
    if len(items) <= limit:
        return list(items)
    return [items[int(at)] for at in np.linspace(0, len(items) - 1, limit)]
