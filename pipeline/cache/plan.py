"""Plan of a cache: its content, fixed before the first image is read.

`plan.json` is immutable and its sha256 is the cache id: the recipe, the image list with sizes and
hashes, the digests of data, and the sizes of every array. Shard `s` of a plan is images
[64 s, 64 s + 64), and its part of a layer is a pure function of (layer, s). Nothing here names a
folder of this machine.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import xxhash
from pydantic import Field, JsonValue

from ..display import show
from ..errors import CacheError, ConfigError, MissingError, SvpError
from ..io.json_files import JsonFile, canonical, parse_model
from ..recipe import Recipe, encoder_row, parse_recipe
from ..store import Place, Store, open_store
from ..weights.rehearsal import narrowed
from .image_checks import MAX_IMAGES
from .image_list import COLUMNS, Images, PlanImage
from .layers import SCHEMA, Layer, Sizes, layers_of
from .layout import PLAN, VIEWS
from .schema import ArraySpec

__all__ = ["MAX_IMAGES", "SCHEMA", "Images", "Plan", "PlanImage", "all_plans", "chosen_view"]

SHARD_SIZE = 64
RLE_BYTES = 262_144
MAX_PLAN_BYTES = 16 << 20
MAX_ROW_BYTES = 1 << 30  # one image's row of one array, uncompressed
FIRST_FORMAT = re.compile(rb'"schema_version":1[,}]')

Int = Annotated[int, Field(ge=0, lt=1 << 62)]
Small = Annotated[int, Field(ge=1, le=65_536)]
Text = Annotated[str, Field(max_length=4096)]


class _Column(JsonFile):
    bytes: Int
    xxh3_128: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Images(JsonFile):
    count: Annotated[int, Field(ge=0, le=MAX_IMAGES)]
    columns: dict[str, _Column]


class _PlanFile(JsonFile):
    schema_version: int
    check: str  # xxh3_64 of the file with an empty `check`: not every field is part of a layer
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
    digests     sha256 of annotation files by name
    """

    recipe: Recipe
    images: Images
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
        if not isinstance(self.images, Images):
            object.__setattr__(self, "images", Images.of(self.images))
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
    def blocks(self) -> int:
        """L: maps in the array `layers`, or behind the means of the features if `thin`."""
        return self.recipe.features.stored_layers

    @property
    def multi_channels(self) -> int:
        """Channels of all these maps side by side."""
        return self.channels * (self.blocks - 1) + self._last_channels if self.blocks else 0

    @property
    def layers_shape(self) -> tuple[int, int, int]:
        """(L,P,C) of the array `layers`; (1,P,channels) side by side where the second encoder is of
        another width.
        """
        if self._last_channels == self.channels:
            return self.blocks, self.patches, self.channels
        return 1, self.patches, self.multi_channels

    @property
    def _last_channels(self) -> int:
        """Of the last map: the second encoder's, if there is one."""
        features = self.recipe.features
        if features.second is None:
            return self.channels
        first, second = encoder_row(features.encoder), encoder_row(features.second.encoder)
        assert first and second, "the recipe has checked the names"
        return self.channels if first.hidden == second.hidden else narrowed(second).hidden

    @property
    def cls(self) -> bool:
        """Whether the encoder's CLS token is stored."""
        return self.recipe.features.cls

    @property
    def int8(self) -> bool:
        """Whether features are stored as int8 with scales instead of float16."""
        return self.recipe.features.stored == "int8"

    @property
    def mean_int4(self) -> bool:
        """Whether features are stored as superpixel means and int4 differences from these."""
        return self.recipe.features.stored == "mean+int4"

    @property
    def thin(self) -> bool:
        """Whether means of superpixels are stored and no patch features."""
        return self.recipe.features.thin

    @property
    def sam_int8(self) -> bool:
        """Whether SAM embeddings are stored as int8 with scales instead of float16."""
        return self.recipe.sam_stored == "int8"

    @property
    def mask_bytes(self) -> int:
        """Bytes of one bit-packed mask on the SSPE grid."""
        return -(-self.sspe[0] * self.sspe[1] // 8)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Its layers, in the order they are written."""
        sizes = Sizes(
            grid=self.grid,
            channels=self.channels,
            multi=self.layers_shape if self.blocks else None,
            multi_channels=self.multi_channels,
            sspe=self.sspe,
            rle_bytes=self.rle_bytes,
            sam=self.sam,
        )
        return layers_of(self.recipe, sizes, self.images, self.shard_size)

    def layer(self, kind: str) -> Layer:
        """Its layer of a kind. Raises CacheError if it has none."""
        for layer in self.layers:
            if layer.kind == kind:
                return layer
        raise CacheError(
            f"this cache has no layer {kind}; it has "
            + ", ".join(layer.folder for layer in self.layers)
            + ": add it with `svp cache add`"
        )

    @cached_property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The sharded arrays of all layers, in the order they are written."""
        return tuple(spec for layer in self.layers for spec in layer.arrays)

    @property
    def num_shards(self) -> int:
        """Shards, the last one maybe short; an empty image list has none."""
        return -(-len(self.images) // self.shard_size)

    def shard(self, s: int) -> tuple[PlanImage, ...]:
        """The images of shard `s`. Raises ConfigError if there is no such shard."""
        if not 0 <= s < self.num_shards:
            raise ConfigError(f"shard {s}: the plan has shards 0 to {self.num_shards - 1}")
        return self.images[s * self.shard_size : (s + 1) * self.shard_size]

    @cached_property
    def data(self) -> bytes:
        """The bytes of plan.json."""
        return _sealed(
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
                "images": self.images.header,
            }
        )

    @cached_property
    def id(self) -> str:
        """The cache id: sha256 of plan.json, hex."""
        return hashlib.sha256(self.data).hexdigest()

    def save(self, cache: Place, view: str = PLAN) -> None:
        """Write the image list, then plan.json or another view: atomic and durable."""
        store = open_store(cache)
        self.images.save(store)
        store.replace(view, self.data, label="plan")

    @classmethod
    def load(cls, cache: Place, view: str = PLAN) -> "Plan":
        """Read plan.json or another view, which may come from anyone, and map its image list.

        Raises MissingError if there is none, CacheError if it is not exactly what `save` writes.
        """
        store = open_store(cache)
        path = store.where(view)
        data = _read(store, view)
        file = parse_model(_PlanFile, data, path)
        if file.schema_version != SCHEMA:
            raise CacheError(
                f"{show(path, 300)}: cache schema {file.schema_version}, this svp reads "
                f"{SCHEMA}: use the svp version that wrote it or make the cache again"
            )
        if set(file.images.columns) != set(COLUMNS):
            raise CacheError(f"{show(path, 300)}: damaged: columns of the image list differ")
        if data != _sealed(file.model_dump(mode="json")):
            raise CacheError(f"{show(path, 300)}: damaged: fails its checksum")
        try:
            plan = cls(
                recipe=parse_recipe(file.recipe, "recipe"),
                images=Images.load(store, file.images.model_dump(mode="json")),
                **file.model_dump(exclude={"schema_version", "recipe", "images", "check"}),
            )
        except ConfigError as error:
            raise CacheError(f"{show(path, 300)}: damaged: {error}") from None
        # parse_model saw that these are the plan's bytes: saves making them again for the id.
        plan.__dict__["data"] = data
        return plan


def all_plans(cache: Place) -> dict[str, Plan]:
    """The plan of a cache and its further views by key, oldest first. Raises as `Plan.load`."""
    store = open_store(cache)
    plans = {PLAN: Plan.load(store)}
    for view in sorted(key for key, _ in store.sizes(VIEWS) if key.endswith(".json")):
        try:
            plans[view] = Plan.load(store, view)
        except CacheError as error:
            raise CacheError(
                f"{error}: to go on without this plan, delete the file; its layers stay, and the "
                "command that made it makes it again"
            ) from None
    return plans


def chosen_view(cache: Place, *refuse: Callable[[Plan], object]) -> str:
    """Key of the oldest plan of a cache that no `refuse` raises an SvpError for.

    plan.json if there is none, so that its reader says why. What is added to a cache later never
    changes the choice. Raises as `Plan.load`.
    """
    plans = all_plans(cache)
    for view, plan in plans.items() if len(plans) > 1 else ():
        with suppress(SvpError):
            for check in refuse:
                check(plan)
            return view
    return PLAN


def _sealed(value: dict[str, object]) -> bytes:
    """The canonical form of a plan with its `check` filled in."""
    digest = xxhash.xxh3_64_hexdigest(canonical(value | {"check": ""}))
    return canonical(value | {"check": digest})


def is_first_format(data: bytes) -> bool:
    """Whether `data`, a plan.json or its end, is of caches before there were layers."""
    return FIRST_FORMAT.search(data) is not None


def _read(cache: Store, view: str) -> bytes:
    """The bytes of a plan. Raises CacheError, with the way out for a cache of the first format."""
    path = cache.where(view)
    try:
        data = cache.read(view, MAX_PLAN_BYTES)
    except MissingError:
        raise MissingError(f"{show(path, 300)}: no such file: not a cache of svp") from None
    except CacheError:
        # The first format held the image list in this file, so it may be of any size.
        if not is_first_format(cache.tail(view, 4096)[0]):
            raise
        data = b""
    if not data or is_first_format(data):
        raise CacheError(
            f"{show(path, 300)}: cache schema 1, this svp reads {SCHEMA}: convert it "
            f"with `svp cache convert {show(cache.where(), 300)} --out NEWCACHE`"
        )
    return data


def _check(plan: Plan) -> None:
    row = max(
        plan.patches * max(plan.channels, plan.multi_channels) * 2,
        plan.k * plan.patches * 2,
        plan.k * (plan.channels + plan.multi_channels) * 2,
        plan.k * plan.mask_bytes,
    )
    if min(plan.grid + plan.sspe + (plan.channels, plan.shard_size)) < 1 or row > MAX_ROW_BYTES:
        raise ConfigError(
            f"plan sizes grid={plan.grid} channels={plan.channels} sspe={plan.sspe} "
            f"shard_size={plan.shard_size}: each must be >= 1 and a row at most {MAX_ROW_BYTES} B"
        )
    if (plan.sam is not None) != plan.recipe.store_sam_embeddings:
        raise ConfigError(f"plan sam={plan.sam}: does not go with recipe.store_sam_embeddings")
