"""Manifest of a shard: file sizes, checksums and the outcome of each image.

A manifest is written last, after every file of the shard is durable. It is a pure function of
(plan, shard): times and hosts go to `logs/`, so two runs of one plan give byte-equal manifests.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import xxhash
from pydantic import Field

from ..display import show
from ..errors import CacheError
from ..io.json_files import JsonFile, canonical, parse_checked, read_bounded
from .layout import MANIFESTS, manifest_path, shard_path
from .plan import Plan
from .schema import array_specs

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


def committed(cache: Path, plan: Plan) -> list[int]:
    """Numbers of the shards that have a manifest file, without reading it."""
    try:
        names = {entry.name for entry in (cache / MANIFESTS).iterdir()}
    except FileNotFoundError:
        return []
    return [s for s in range(plan.num_shards) if f"{s}.json" in names]


def files_in_place(cache: Path, plan: Plan, manifest: Manifest) -> Iterable[str]:
    """Names of the shard's arrays whose file is missing or has another size."""
    for spec in array_specs(plan):
        path = shard_path(cache, spec.name, manifest.shard, 1 + len(spec.row))
        try:
            size = path.lstat().st_size
        except OSError:
            size = -1
        if size != manifest.files[spec.name].bytes:
            yield spec.name


def missing_shards(cache: Path, plan: Plan) -> list[int]:
    """The shards still to compute: no sound manifest, or a file gone or of the wrong size."""

    def done(shard: int) -> bool:
        try:
            manifest = read_manifest(cache, plan, shard)
        except CacheError:
            return False
        return not any(True for _ in files_in_place(cache, plan, manifest))

    sound = {shard for shard in committed(cache, plan) if done(shard)}
    return [shard for shard in range(plan.num_shards) if shard not in sound]


def survivors_of(raw: Mapping[str, int]) -> dict[str, int]:
    """Survivor counts as plain ints in a fixed order."""
    return {str(name): int(raw[name]) for name in sorted(raw)}


def _disagreement(found: Manifest, plan: Plan, shard: int) -> str:
    names = {spec.name for spec in array_specs(plan)}
    if found.shard != shard:
        return f"it is of shard {found.shard}"
    if set(found.files) != names:
        return f"arrays {show(sorted(set(found.files) ^ names))}"
    images = plan.shard(shard)
    if [(e.id, e.h, e.w) for e in found.images] != [
        (i.image_id, i.height, i.width) for i in images
    ]:
        return "its images are others"
    k = plan.k
    for entry in found.images:
        good = entry.status == OK
        if good != (1 <= entry.k <= k) or good == bool(entry.reason):
            return f"image {entry.id} is {entry.status} with k={entry.k}"
    return ""
