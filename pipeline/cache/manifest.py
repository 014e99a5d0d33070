"""Manifest of a shard of a layer: file sizes, checksums and the outcome of each image.

A manifest is written last, after every file of the shard is durable. It is a pure function of
(layer, shard): times and hosts go to `logs/`, so two runs give byte-equal manifests, and two caches
with an equal layer have equal ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import xxhash
from pydantic import Field

from ..display import counted, show
from ..errors import CacheError
from ..io.json_files import JsonFile, canonical, parse_checked, read_bounded
from .layers import SUPERPIXELS, Layer
from .layout import MANIFESTS, manifest_path, shard_path
from .plan import Plan

MAX_MANIFEST_BYTES = 64 << 20
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


Committed = Mapping[str, Mapping[int, Manifest]]  # sound manifests by shard, by layer's folder


def read_manifest(cache: Path, layer: Layer, shard: int) -> Manifest:
    """The manifest of a committed shard of a layer, checked against it.

    Raises CacheError if it is missing, damaged, of another layer, or does not fit its arrays and
    images.
    """
    path = manifest_path(cache, layer.folder, shard)
    data = read_bounded(path, MAX_MANIFEST_BYTES)
    found = parse_checked(Manifest, data, path)
    blank = data.replace(f'"check":"{found.check}"'.encode(), b'"check":""', 1)
    if xxhash.xxh3_64_hexdigest(blank) != found.check:
        raise CacheError(f"{show(str(path), 300)}: damaged: fails its checksum")
    if found.layer != layer.id:
        raise CacheError(
            f"{show(str(path), 300)}: belongs to layer {found.layer[:12]}, not to {layer.id[:12]}"
        )
    wrong = _disagreement(found, layer, shard)
    if wrong:
        raise CacheError(f"{show(str(path), 300)}: does not fit its plan: {wrong}")
    return found


def committed_shards(cache: Path, layer: Layer) -> list[int]:
    """Numbers of the shards of a layer that have a manifest file, without reading it."""
    try:
        names = {entry.name for entry in (cache / layer.folder / MANIFESTS).iterdir()}
    except FileNotFoundError:
        return []
    return [s for s in range(layer.num_shards) if f"{s}.json" in names]


def read_committed(cache: Path, plan: Plan, known: Committed = MappingProxyType({})) -> Committed:
    """The sound manifests of every layer by shard, in order; those in `known` are not read again."""
    return {
        layer.folder: _read_layer(cache, layer, known.get(layer.folder, {}))
        for layer in plan.layers
    }


def missing_shards(cache: Path, plan: Plan, committed: Committed) -> dict[int, tuple[Layer, ...]]:
    """The shards still to compute, in order, with the layers that lack them.

    A layer lacks a shard that is not in `committed`, or of which a file is gone or has another size.
    """
    missing: dict[int, tuple[Layer, ...]] = {}
    for shard in range(plan.num_shards):
        lacking = tuple(
            layer
            for layer in plan.layers
            if (found := committed.get(layer.folder, {}).get(shard)) is None
            or any(damaged_files(cache, layer, found))
        )
        if lacking:
            missing[shard] = lacking
    return missing


def damaged_files(cache: Path, layer: Layer, manifest: Manifest) -> Iterator[str]:
    """Names of the layer's arrays whose file of this shard is missing or has another size."""
    for spec in layer.arrays:
        try:
            size = shard_path(cache, spec, manifest.shard).lstat().st_size
        except OSError:
            size = -1
        if size != manifest.files[spec.name].bytes:
            yield spec.name


def _read_layer(cache: Path, layer: Layer, known: Mapping[int, Manifest]) -> dict[int, Manifest]:
    found: dict[int, Manifest] = {}
    for shard in committed_shards(cache, layer):
        with suppress(CacheError):  # a damaged one commits nothing: its shard is computed again
            found[shard] = known.get(shard) or read_manifest(cache, layer, shard)
    return found


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
