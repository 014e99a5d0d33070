"""Manifest of a shard: file sizes, checksums and the outcome of each image.

A manifest is written last, after every file of the shard is durable. It is a pure function of
(plan, shard): times and hosts go to `logs/`, so two runs of one plan give byte-equal manifests.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import xxhash
from pydantic import Field

from ..display import show
from ..errors import CacheError
from ..io.json_files import JsonFile, canonical, parse_checked, read_bounded
from .layout import MANIFESTS, manifest_path, shard_path
from .plan import Plan

MAX_MANIFEST_BYTES = 64 << 20
OK: Final = "ok"
QUARANTINED: Final = "quarantined"

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=64)]


class FileEntry(JsonFile):
    """One shard file: its size and xxh3_64."""

    bytes: Count
    xxh3: Hex64


class ImageEntry(JsonFile):
    """Outcome of one image. `k` superpixels if ok; else a stable reason and one line."""

    id: Count
    h: Count
    w: Count
    k: Annotated[int, Field(ge=0, le=65_535)]
    status: Literal["ok", "quarantined"]
    reason: Name = ""
    detail: Text = ""
    fallback: bool = False
    survivors: dict[Name, Count] = Field(default_factory=dict, max_length=64)


class Manifest(JsonFile):
    """The record of shard `shard` of cache `cache`.

    `check` is the xxh3_64 of the file's bytes with an empty `check`.
    """

    schema_version: Literal[1] = 1
    cache: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shard: Count
    files: dict[Name, FileEntry]
    images: list[ImageEntry]
    check: str = ""

    def sealed(self) -> "Manifest":
        """The same record with its `check` filled in."""
        blank = self.model_copy(update={"check": ""})
        return self.model_copy(update={"check": xxhash.xxh3_64_hexdigest(blank.data())})

    def data(self) -> bytes:
        """The bytes of the file."""
        return canonical(self.model_dump(mode="json"))


Committed = Mapping[int, Manifest]  # sound manifests by shard


def read_manifest(cache: Path, plan: Plan, shard: int) -> Manifest:
    """The manifest of a committed shard, checked against the plan.

    Raises CacheError if it is missing, damaged, of another cache, or does not list exactly the
    plan's arrays and images.
    """
    path = manifest_path(cache, shard)
    data = read_bounded(path, MAX_MANIFEST_BYTES)
    found = parse_checked(Manifest, data, path)
    blank = data.replace(f'"check":"{found.check}"'.encode(), b'"check":""', 1)
    if xxhash.xxh3_64_hexdigest(blank) != found.check:
        raise CacheError(f"{show(str(path), 300)}: damaged: fails its checksum")
    if found.cache != plan.id:
        raise CacheError(
            f"{show(str(path), 300)}: belongs to cache {found.cache[:12]}, not to {plan.id[:12]}"
        )
    wrong = _disagreement(found, plan, shard)
    if wrong:
        raise CacheError(f"{show(str(path), 300)}: does not fit plan.json: {wrong}")
    return found


def committed_shards(cache: Path, plan: Plan) -> list[int]:
    """Numbers of the shards that have a manifest file, without reading it."""
    try:
        names = {entry.name for entry in (cache / MANIFESTS).iterdir()}
    except FileNotFoundError:
        return []
    return [s for s in range(plan.num_shards) if f"{s}.json" in names]


def read_committed(cache: Path, plan: Plan, known: Committed = MappingProxyType({})) -> Committed:
    """The sound manifests of `cache` by shard, in order; those in `known` are not read again."""
    found: dict[int, Manifest] = {}
    for shard in committed_shards(cache, plan):
        with suppress(CacheError):  # a damaged one commits nothing: its shard is computed again
            found[shard] = known.get(shard) or read_manifest(cache, plan, shard)
    return found


def missing_shards(cache: Path, plan: Plan, committed: Committed) -> list[int]:
    """The shards still to compute: not in `committed`, or a file gone or of the wrong size."""
    return [
        shard
        for shard in range(plan.num_shards)
        if shard not in committed or any(damaged_files(cache, plan, committed[shard]))
    ]


def damaged_files(cache: Path, plan: Plan, manifest: Manifest) -> Iterator[str]:
    """Names of the shard's arrays whose file is missing or has another size."""
    for spec in plan.arrays:
        try:
            size = shard_path(cache, spec, manifest.shard).lstat().st_size
        except OSError:
            size = -1
        if size != manifest.files[spec.name].bytes:
            yield spec.name


def _disagreement(found: Manifest, plan: Plan, shard: int) -> str:
    names = {spec.name for spec in plan.arrays}
    if found.shard != shard:
        return f"it is the manifest of shard {found.shard}"
    if set(found.files) != names:
        return f"arrays {show(sorted(set(found.files) ^ names))}"
    images = plan.shard(shard)
    if [(e.id, e.h, e.w) for e in found.images] != [
        (i.image_id, i.height, i.width) for i in images
    ]:
        return "its images differ"
    for entry in found.images:
        good = entry.status == OK
        if good != (1 <= entry.k <= plan.k) or good == bool(entry.reason):
            return f"image {entry.id} is {entry.status} with k={entry.k}"
    return ""
