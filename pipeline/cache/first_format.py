"""Convert a cache of the first format (schema 1), in which all arrays lay side by side.

The shard files are the same in both formats: they are linked (copied over file systems) after each
was compared with its old manifest, so a converted cache holds the very bytes of the old one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field, JsonValue

from ..display import Report, counted, show
from ..errors import CacheError, ConfigError, MissingError
from ..io.json_files import JsonFile, parse_checked, read_bounded
from ..recipe import parse_recipe
from ..store import Store, open_folder
from .create import create_cache
from .exchange import place_files
from .image_list import Images, PlanImage
from .index import finalize
from .layers import SUPERPIXELS, Layer
from .layout import MANIFESTS, PLAN, manifest_key
from .manifest import FileEntry, Manifest, missing_shards, read_committed
from .places import copy_places
from .plan import Plan, is_first_format

MAX_PLAN_BYTES = 2 << 30
MAX_MANIFEST_BYTES = 64 << 20
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Name = Annotated[str, Field(max_length=64)]


class _OldImages(JsonFile):
    image_id: list[Count]
    path: list[str]
    height: list[Count]
    width: list[Count]
    bytes: list[Count]
    xxh3: list[Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]]


class _OldPlan(JsonFile):
    schema_version: Literal[1]
    split: str
    recipe: dict[str, JsonValue]
    digests: dict[str, str]
    shard_size: Annotated[int, Field(ge=1, le=4096)]
    grid: tuple[int, int]
    channels: int
    sspe: tuple[int, int]
    rle_bytes: int
    sam: tuple[int, int, int] | None
    images: _OldImages


class _OldEntry(JsonFile):
    id: Count
    h: Count
    w: Count
    k: Annotated[int, Field(ge=0, le=65_535)]
    status: Literal["ok", "quarantined"]
    reason: Name = ""
    detail: str = ""
    fallback: bool = False
    survivors: dict[Name, Count] = Field(default_factory=dict)


class _OldManifest(JsonFile):
    schema_version: Literal[1]
    cache: str
    shard: Count
    files: dict[Name, FileEntry]
    images: list[_OldEntry]
    check: str


@dataclass(frozen=True)
class ConvertReport(Report):
    """Outcome of a conversion.

    before, after  the cache's id in the old and in the new format
    damaged        shards left out, with the cause: `svp precompute` makes them again
    """

    cache: str
    before: str
    after: str
    shards: int
    damaged: Mapping[int, str]
    complete: bool

    @property
    def exit_code(self) -> int:
        """0, or 1 if a damaged shard was left out."""
        return int(bool(self.damaged))

    def lines(self) -> list[str]:
        """The report for people."""
        state = "complete" if self.complete else "not complete: run the same `svp precompute` again"
        lines = [
            f"{self.cache}: cache {self.after[:12]}, which was {self.before[:12]}; {state}",
            f"{counted(self.shards, 'shard')} converted, every byte compared with its manifest",
        ]
        return lines + [f"shard {s} left out: {show(why)}" for s, why in self.damaged.items()]


def convert(cache: Path, out: Path) -> ConvertReport:
    """Make the cache `out` of a cache of the first format; safe to repeat after an interruption.

    Raises MissingError if there is no cache, ConfigError if it has the new format or lies where the
    new one is to be, CacheError if its plan is damaged.
    """
    path = cache / PLAN
    if not path.is_file():
        raise MissingError(f"{show(str(path), 300)}: no such file: not a cache of svp")
    if cache.resolve() == out.resolve():
        raise ConfigError(f"--out {show(str(out), 300)}: is the old cache: name another folder")
    data = read_bounded(path, MAX_PLAN_BYTES)
    if not is_first_format(data):
        raise ConfigError(f"{show(str(cache), 300)}: has the present format already")
    plan = _plan(parse_checked(_OldPlan, data, path), path)
    before = hashlib.sha256(data).hexdigest()
    create_cache(out, plan)
    damaged: dict[int, str] = {}
    shards = 0
    for shard in range(plan.num_shards):
        if not (cache / MANIFESTS / f"{shard}.json").is_file():
            continue
        try:
            _convert_shard(cache, before, open_folder(out), plan, shard)
            shards += 1
        except CacheError as error:
            damaged[shard] = str(error)
    copy_places(cache, out)
    committed = read_committed(out, plan)
    complete = not missing_shards(out, plan, committed)
    if complete:
        finalize(out, plan, committed)
    return ConvertReport(str(out), before, plan.id, shards, damaged, complete)


def _plan(old: _OldPlan, path: Path) -> Plan:
    columns = [getattr(old.images, name) for name in PlanImage._fields]
    if len({len(column) for column in columns}) != 1:
        raise CacheError(f"{show(str(path), 300)}: damaged: image columns differ in length")
    try:
        return Plan(
            recipe=parse_recipe(old.recipe, "recipe"),
            images=Images.of(map(PlanImage._make, zip(*columns, strict=True))),
            **old.model_dump(exclude={"schema_version", "recipe", "images"}),
        )
    except ConfigError as error:
        raise CacheError(f"{show(str(path), 300)}: damaged: {error}") from None


def _convert_shard(cache: Path, before: str, out: Store, plan: Plan, shard: int) -> None:
    old = _read_old(cache, before, plan, shard)
    sources = {
        spec: "/".join([spec.name, "c", str(shard), *["0"] * len(spec.row)]) for spec in plan.arrays
    }
    place_files(open_folder(cache), sources, old.files, out, shard)
    for layer in plan.layers:
        key = manifest_key(layer.folder, shard)
        out.create(key, [_manifest(layer, old).data()], label="manifest", shard=shard)


def _read_old(cache: Path, before: str, plan: Plan, shard: int) -> _OldManifest:
    path = cache / MANIFESTS / f"{shard}.json"
    data = read_bounded(path, MAX_MANIFEST_BYTES)
    old = parse_checked(_OldManifest, data, path)
    blank = data.replace(f'"check":"{old.check}"'.encode(), b'"check":""', 1)
    images = [(image.image_id, image.height, image.width) for image in plan.shard(shard)]
    fits = (
        xxhash.xxh3_64_hexdigest(blank) == old.check
        and (old.cache, old.shard) == (before, shard)
        and set(old.files) == {spec.name for spec in plan.arrays}
        and [(entry.id, entry.h, entry.w) for entry in old.images] == images
    )
    if not fits:
        raise CacheError(f"{show(str(path), 300)}: damaged, or of another cache")
    return old


def _manifest(layer: Layer, old: _OldManifest) -> Manifest:
    found: Sequence[_OldEntry] = old.images if layer.kind == SUPERPIXELS else ()
    steps = sorted({step for entry in found for step in entry.survivors})
    counted_steps: dict[str, Any] = {
        step: [entry.survivors.get(step, 0) for entry in found] for step in steps
    }
    return Manifest(
        layer=layer.id,
        shard=old.shard,
        files={spec.name: old.files[spec.name] for spec in layer.arrays},
        bad=[
            (slot, entry.reason, entry.detail)
            for slot, entry in enumerate(old.images)
            if entry.status != "ok"
        ],
        k=[entry.k for entry in found],
        fallback=[slot for slot, entry in enumerate(found) if entry.fallback],
        survivors=counted_steps,
    ).sealed()
