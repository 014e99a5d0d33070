"""Manifest of a shard of a layer: file sizes, checksums and the outcome of each image.

A manifest is written last, after every file of the shard is durable. It is a pure function of
(layer, shard): times and hosts go to `logs/`, so two runs give byte-equal manifests, and two caches
with an equal layer have equal ones.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Final, Literal

import xxhash
from pydantic import Field

from ..display import counted, show
from ..errors import CacheError, MissingError
from ..io.json_files import JsonFile, canonical, parse_checked
from ..store import Place, Read, Stat, Store, open_store
from .layers import SUPERPIXELS, Layer
from .layout import MANIFESTS, manifest_key, read_file, shard_key
from .manifest_snapshot import BLOCK, load_snapshot, save_snapshot
from .plan import Plan

MAX_MANIFEST_BYTES = 64 << 20
TOGETHER = 512  # manifests read at once
FEW = 16  # manifests that are read one by one rather than from a snapshot
OK: Final = "ok"
QUARANTINED: Final = "quarantined"

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Slot = Annotated[int, Field(ge=0, lt=4096)]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=64)]
Code = Annotated[str, Field(min_length=1, max_length=64)]


class FileEntry(JsonFile):
    """One shard file: its size and xxh3_64."""

    bytes: Count
    xxh3: Hex64


class Manifest(JsonFile):
    """The record of shard `shard` of the layer whose id is `layer`.

    bad        (slot, stable reason, one line) of every quarantined image
    k          superpixels of each image, 0 if quarantined; empty of other layers
    fallback   slots whose only superpixel is the whole image
    survivors  selection step -> masks left after it, of each image
    check      xxh3_64 of the file's bytes with an empty `check`
    """

    schema_version: Literal[2] = 2
    layer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shard: Count
    files: dict[Name, FileEntry]
    bad: list[tuple[Slot, Code, Text]] = Field(default_factory=list)
    k: list[Annotated[int, Field(ge=0, le=65_535)]] = Field(default_factory=list)
    fallback: list[Slot] = Field(default_factory=list)
    survivors: dict[Name, list[Count]] = Field(default_factory=dict, max_length=64)
    check: str = ""

    def sealed(self) -> "Manifest":
        """The same record with its `check` filled in."""
        blank = self.model_copy(update={"check": ""})
        return self.model_copy(update={"check": xxhash.xxh3_64_hexdigest(blank.data())})

    def data(self) -> bytes:
        """The bytes of the file."""
        return canonical(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Committed:
    """The manifests of the layers of a plan.

    sound    by the layer's folder and by shard, in order
    damaged  (layer's folder, shard) of those that are there and fail their checks
    """

    sound: Mapping[str, Mapping[int, Manifest]] = field(default_factory=dict)
    damaged: frozenset[tuple[str, int]] = frozenset()

    def of(self, layer: Layer) -> Mapping[int, Manifest]:
        """The sound manifests of a layer by shard."""
        return self.sound.get(layer.folder, {})

    def without(self, shards: Mapping[int, Sequence[Layer]]) -> "Committed":
        """The same less these shards of these layers."""
        again = {(layer.folder, shard) for shard, layers in shards.items() for layer in layers}
        sound = {
            folder: {s: one for s, one in manifests.items() if (folder, s) not in again}
            for folder, manifests in self.sound.items()
        }
        return Committed(sound, self.damaged - again)


def read_manifest(cache: Place, layer: Layer, shard: int) -> Manifest:
    """The manifest of a committed shard of a layer, checked against it.

    Raises CacheError if it is missing, damaged, of another layer, or does not fit its arrays and
    images.
    """
    store, key = open_store(cache), manifest_key(layer.folder, shard)
    return _parsed(read_file(store, key, MAX_MANIFEST_BYTES), store.where(key), layer, shard)


def _parsed(data: bytes, where: str, layer: Layer, shard: int) -> Manifest:
    found = parse_checked(Manifest, data, where)
    blank = data.replace(f'"check":"{found.check}"'.encode(), b'"check":""', 1)
    if xxhash.xxh3_64_hexdigest(blank) != found.check:
        raise CacheError(f"{show(where, 300)}: damaged: fails its checksum")
    if found.layer != layer.id:
        raise CacheError(
            f"{show(where, 300)}: belongs to layer {found.layer[:12]}, not to {layer.id[:12]}"
        )
    wrong = _disagreement(found, layer, shard)
    if wrong:
        raise CacheError(f"{show(where, 300)}: does not fit its plan: {wrong}")
    return found


def committed_shards(cache: Place, layer: Layer) -> list[int]:
    """Numbers of the shards of a layer that have a manifest file, without reading it."""
    return [*commits(cache, layer)]


def commits(cache: Place, layer: Layer) -> dict[int, Stat]:
    """Size and time of each manifest file of a layer by shard, in order."""
    there = dict(open_store(cache).stats(f"{layer.folder}/{MANIFESTS}"))
    keys = ((s, manifest_key(layer.folder, s)) for s in range(layer.num_shards))
    return {s: there[key] for s, key in keys if key in there}


def _manifest_sizes(cache: Store, layer: Layer) -> dict[int, int]:
    return {shard: found.bytes for shard, found in commits(cache, layer).items()}


def read_manifests(cache: Store, layer: Layer) -> dict[int, Manifest]:
    """The manifests of a layer by shard, in order. Raises CacheError if one is damaged."""
    return {
        shard: _parsed(data, cache.where(manifest_key(layer.folder, shard)), layer, shard)
        for shard, data in _bytes_of(cache, layer, _manifest_sizes(cache, layer))
    }


def read_committed(
    cache: Place, plan: Plan, known: Committed | None = None, *, snapshot: bool = False
) -> Committed:
    """The manifests of every layer; those that are sound in `known` are not read again.

    snapshot  use and renew the copies of manifests in `logs`: for runs, not for checks
    """
    store, known, damaged = open_store(cache), known or Committed(), set[tuple[str, int]]()
    sound = {}
    for layer in plan.layers:
        found, faulty = _read_layer(store, layer, known.of(layer), snapshot)
        sound[layer.folder] = found
        damaged.update((layer.folder, shard) for shard in faulty)
    return Committed(sound, frozenset(damaged))


def missing_shards(
    cache: Place, plan: Plan, committed: Committed, known: Committed | None = None
) -> dict[int, tuple[Layer, ...]]:
    """The shards still to compute, in order, with the layers that lack them.

    A layer lacks a shard that is not in `committed`, or of which a file is gone or has another size;
    the files of those in `known` are not looked at.
    """
    missing: dict[int, tuple[Layer, ...]] = {}
    store, known = open_store(cache), known or Committed()
    for layer in plan.layers:
        found, seen = committed.of(layer), known.of(layer)
        new = [one for shard, one in found.items() if shard not in seen]
        damaged = damaged_files(store, layer, new)
        for shard in range(plan.num_shards):
            if shard not in found or shard in damaged:
                missing[shard] = (*missing.get(shard, ()), layer)
    return dict(sorted(missing.items()))


def damaged_files(
    cache: Store, layer: Layer, manifests: Collection[Manifest]
) -> dict[int, list[str]]:
    """By shard, the names of the layer's arrays whose file is missing or has another size."""
    damaged: dict[int, list[str]] = {}
    for spec in layer.arrays:
        keys = {one.shard: shard_key(spec, one.shard) for one in manifests}
        sizes = cache.sizes_of([*keys.values()])
        for one in manifests:
            if sizes.get(keys[one.shard]) != one.files[spec.name].bytes:
                damaged.setdefault(one.shard, []).append(spec.name)
    return damaged


def _read_layer(
    cache: Store, layer: Layer, known: Mapping[int, Manifest], snapshot: bool
) -> tuple[dict[int, Manifest], list[int]]:
    """The sound manifests of a layer by shard, in order, and the shards of the damaged ones."""
    there = commits(cache, layer)
    found = {shard: known[shard] for shard in there if shard in known}
    damaged: list[int] = []
    wanted = [shard for shard in there if shard not in found]
    for block, shards in groupby(wanted, lambda shard: shard // BLOCK):
        unread = {shard: there[shard].bytes for shard in shards}
        if snapshot and len(unread) > FEW:
            for shard, (tag, data) in load_snapshot(cache, layer, block).items():
                if shard in unread and tag and tag == there[shard].tag:
                    with suppress(CacheError):  # a damaged copy: the manifest itself is read
                        found[shard] = _parsed(data, cache.where(), layer, shard)
                        del unread[shard]
        for shard, data in _bytes_of(cache, layer, unread):
            try:
                where = cache.where(manifest_key(layer.folder, shard))
                found[shard] = _parsed(data, where, layer, shard)
            except CacheError:  # it commits nothing: its shard is computed again
                damaged.append(shard)
        if snapshot and len(unread) > FEW:
            own = range(block * BLOCK, (block + 1) * BLOCK)
            copies = {
                s: (there[s].tag, found[s].data()) for s in own if s in found and there[s].tag
            }
            save_snapshot(cache, layer, block, copies)
    return dict(sorted(found.items())), damaged


def _bytes_of(cache: Store, layer: Layer, sizes: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
    """The manifest files with these sizes, many in flight; one that is gone by now is left out."""
    shards = [*sizes]
    for start in range(0, len(shards), TOGETHER):
        # Of one that is too large nothing is read, which makes it a damaged one.
        block = {
            shard: bytearray(sizes[shard] if sizes[shard] <= MAX_MANIFEST_BYTES else 0)
            for shard in shards[start : start + TOGETHER]
        }
        try:
            cache.read_many(
                [
                    Read(manifest_key(layer.folder, shard), 0, [memoryview(data)])
                    for shard, data in block.items()
                ]
            )
        except (CacheError, MissingError):  # one of them has changed since it was listed
            for shard in block:
                with suppress(MissingError):
                    key = manifest_key(layer.folder, shard)
                    yield shard, cache.read(key, MAX_MANIFEST_BYTES)
            continue
        yield from ((shard, bytes(data)) for shard, data in block.items())


def _disagreement(found: Manifest, layer: Layer, shard: int) -> str:
    names = {spec.name for spec in layer.arrays}
    if found.shard != shard:
        return f"it is the manifest of shard {found.shard}"
    if set(found.files) != names:
        return f"arrays {show(sorted(set(found.files) ^ names))}"
    count = len(layer.rows(shard))
    bad = [slot for slot, _, _ in found.bad]
    if bad != sorted(set(bad)) or max([*bad, *found.fallback, -1]) >= count:
        return "its quarantined images are not of this shard"
    if layer.kind != SUPERPIXELS:
        return "it counts superpixels" if found.k or found.survivors or found.fallback else ""
    if len(found.k) != count or any(len(left) != count for left in found.survivors.values()):
        return f"it counts superpixels of {counted(len(found.k), 'image')}, the shard has {count}"
    for slot, k in enumerate(found.k):
        good = slot not in bad
        if good != (1 <= k <= layer.k):
            what = OK if good else QUARANTINED
            return f"image {slot} of the shard is {what} with k={k}"
    return ""
