"""Plan of a cache: its content, fixed before the first image is read.

`plan.json` is immutable and its sha256 is the cache id: the recipe, the image list with sizes and
hashes, the digests of weights and data, and the sizes of every array. Shard `s` of a plan is images
[64 s, 64 s + 64) and is a pure function of (plan, s). Nothing here names a folder of this machine.
"""

import gc
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, JsonValue

from ..display import show
from ..errors import CacheError, ConfigError, MissingError
from ..io.atomic import write_file
from ..io.json_files import JsonFile, canonical, parse_model, read_bounded
from ..io.paths import refuse_url
from ..recipe import Recipe, parse_recipe
from .schema import ArraySpec, array_specs

SCHEMA = 1
SHARD_SIZE = 64
RLE_BYTES = 262_144
MAX_IMAGES = 16_777_216
MAX_PLAN_BYTES = 2 << 30
MAX_ROW_BYTES = 1 << 30  # one image's row of one array, uncompressed

Int = Annotated[int, Field(ge=0, lt=1 << 62)]
Side = Annotated[int, Field(ge=0, le=1_000_000)]
Small = Annotated[int, Field(ge=1, le=65_536)]
Text = Annotated[str, Field(max_length=4096)]


class PlanImage(NamedTuple):
    """One image of a plan. `path` is relative to the image root; `xxh3` is the file's xxh3_64, hex.

    `height` and `width` are 0, `bytes` 0 and `xxh3` empty when the planner could not read the file:
    the image stays in the plan and will be quarantined with its reason.
    """

    image_id: int
    path: str
    height: int
    width: int
    bytes: int
    xxh3: str


class _Images(JsonFile):
    """The image list as columns: parses ten times faster than a list of records."""

    image_id: list[Int] = Field(max_length=MAX_IMAGES)
    path: list[Text]
    height: list[Side]
    width: list[Side]
    bytes: list[Int]
    xxh3: list[Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]]


class _PlanFile(JsonFile):
    schema_version: int
    split: Text
    recipe: dict[str, JsonValue]  # raw: a later svp may know more fields, the bytes stay
    digests: dict[Text, Text]
    shard_size: Annotated[int, Field(ge=1, le=4096)]
    grid: tuple[Small, Small]
    channels: Small
    sspe: tuple[Small, Small]
    rle_bytes: Annotated[int, Field(ge=1024, le=1 << 26)]
    sam: tuple[Small, Small, Small] | None
    images: _Images


@dataclass(frozen=True)
class Plan:
    """Everything that determines the bytes of a cache.

    recipe      what computes the rows
    images      in shard order, ids unique
    grid        (h,w) of the patch grid, P = h w patches
    channels    C of a patch feature
    sspe        (h,w) of the SSPE mask grid, G = h w cells
    rle_bytes   width of an image's RLE row
    sam         shape of the SAM image embedding, or None when it is not stored
    digests     sha256 of weights and annotation files by name
    """

    recipe: Recipe
    images: tuple[PlanImage, ...]
    grid: tuple[int, int]
    channels: int
    sspe: tuple[int, int]
    rle_bytes: int = RLE_BYTES
    sam: tuple[int, int, int] | None = None
    split: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    shard_size: int = SHARD_SIZE
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check(self)

    @property
    def patches(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    @property
    def k(self) -> int:
        """Superpixel rows per image: the recipe's cap."""
        return self.recipe.superpixels.max_superpixels

    @property
    def layers(self) -> int:
        """Number of extra encoder layers stored."""
        return self.recipe.features.stored_layers

    @property
    def cls(self) -> bool:
        """Whether the encoder's CLS token is stored."""
        return self.recipe.features.cls

    @property
    def int8(self) -> bool:
        """Whether features are stored as int8 with scales instead of float16."""
        return self.recipe.features.stored == "int8"

    @property
    def mask_bytes(self) -> int:
        """Bytes of one bit-packed mask on the SSPE grid."""
        return -(-self.sspe[0] * self.sspe[1] // 8)

    @cached_property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The sharded arrays, in the order they are written."""
        return array_specs(
            k=self.k,
            patches=self.patches,
            channels=self.channels,
            mask_bytes=self.mask_bytes,
            rle_bytes=self.rle_bytes,
            int8=self.int8,
            layers=self.layers,
            cls=self.cls,
            sam=self.sam,
        )

    @property
    def num_shards(self) -> int:
        """Shards, the last one maybe short; an empty image list has none."""
        return -(-len(self.images) // self.shard_size)

    def shard(self, s: int) -> tuple[PlanImage, ...]:
        """The images of shard `s`."""
        if not 0 <= s < self.num_shards:
            raise ConfigError(f"shard {s}: the plan has shards 0 to {self.num_shards - 1}")
        return self.images[s * self.shard_size : (s + 1) * self.shard_size]

    @cached_property
    def data(self) -> bytes:
        """The bytes of plan.json."""
        columns = [list(column) for column in zip(*self.images, strict=True)]
        return canonical(
            {
                "schema_version": self.schema,
                "split": self.split,
                "recipe": self.recipe.model_dump(mode="json"),
                "digests": dict(self.digests),
                "shard_size": self.shard_size,
                "grid": self.grid,
                "channels": self.channels,
                "sspe": self.sspe,
                "rle_bytes": self.rle_bytes,
                "sam": self.sam,
                "images": dict(zip(PlanImage._fields, columns or [[]] * 6, strict=True)),
            }
        )

    @cached_property
    def id(self) -> str:
        """The cache id: sha256 of plan.json, hex."""
        return hashlib.sha256(self.data).hexdigest()

    def save(self, path: Path) -> None:
        """Write plan.json: atomic and durable."""
        write_file(path, self.data, label="plan")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read plan.json, which may come from anyone.

        Raises MissingError if there is none, CacheError if it is not exactly what `save` writes,
        ConfigError for a URL.
        """
        refuse_url(path)
        if not os.path.lexists(path):
            raise MissingError(f"{show(str(path), 300)}: no such file: not a cache of svp")
        data = read_bounded(path, MAX_PLAN_BYTES)
        plan = _from_file(parse_model(_PlanFile, data, path), path)
        # parse_model saw that these are the plan's bytes: saves making them again for the id.
        plan.__dict__["data"] = data
        return plan


def _from_file(file: _PlanFile, path: Path) -> Plan:
    if file.schema_version != SCHEMA:
        raise CacheError(
            f"{show(str(path), 300)}: cache schema {file.schema_version}, this svp reads {SCHEMA}: "
            "use the svp version that wrote it or make the cache again"
        )
    columns = [getattr(file.images, name) for name in PlanImage._fields]
    if len({len(column) for column in columns}) != 1:
        raise CacheError(f"{show(str(path), 300)}: damaged: image columns differ in length")
    try:
        return Plan(
            recipe=parse_recipe(file.recipe, "recipe"),
            images=_images(columns),
            grid=file.grid,
            channels=file.channels,
            sspe=file.sspe,
            rle_bytes=file.rle_bytes,
            sam=file.sam,
            split=file.split,
            digests=file.digests,
            shard_size=file.shard_size,
        )
    except ConfigError as error:
        raise CacheError(f"{show(str(path), 300)}: damaged: {error}") from None


def _images(columns: list[list[Any]]) -> tuple[PlanImage, ...]:
    # The collector would walk 100,000 new tuples of plain values again and again: 4x slower.
    paused = gc.isenabled()
    gc.disable()
    try:
        return tuple(map(PlanImage._make, zip(*columns, strict=True)))
    finally:
        if paused:
            gc.enable()


def _check(plan: Plan) -> None:
    row = max(
        plan.patches * plan.channels * 2 * max(plan.layers, 1),
        plan.k * plan.patches * 2,
        plan.k * plan.mask_bytes,
    )
    if min(plan.grid + plan.sspe + (plan.channels, plan.shard_size)) < 1 or row > MAX_ROW_BYTES:
        raise ConfigError(
            f"plan sizes grid={plan.grid} channels={plan.channels} sspe={plan.sspe} "
            f"shard_size={plan.shard_size}: each must be >= 1 and a row at most {MAX_ROW_BYTES} B"
        )
    if (plan.sam is not None) != plan.recipe.store_sam_embeddings:
        raise ConfigError(f"plan sam={plan.sam}: does not go with recipe.store_sam_embeddings")
    if len({image.image_id for image in plan.images}) != len(plan.images):
        raise ConfigError("plan images: an image id occurs twice")
    # One scan of all paths finds the rare suspect; only then is each looked at.
    every = "".join([f"\0{image.path}" for image in plan.images]) + "\0"
    suspect = any(part in every for part in ("\\", "..", "\0/", "\0\0"))
    if plan.images and (suspect or every.count("\0") != len(plan.images) + 1):
        for image in plan.images:
            _check_path(image.path)


def _check_path(path: str) -> None:
    if not path or path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise ConfigError(f"plan image path {show(path)}: must be relative, without .. or \\")
