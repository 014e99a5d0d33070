"""Layers of a cache: what each is made with, and its identity.

A layer is one part of what the frozen models give for the image list: superpixels, their cover of
the patch grid, features of an encoder, the means of these by superpixel, the encoder's CLS token, more of its blocks, SAM's embeddings, the superpixels' order. Its
document names only what decides its own bits, so caches that differ elsewhere have equal layers,
and what is there is never computed again. The layers of a plan are a pure function of the plan.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS, USUAL_SAM
from ..io.json_files import canonical
from .image_list import Images, PlanImage
from .schema import ArraySpec, array_specs

if TYPE_CHECKING:
    from ..recipe import FeatureConfig, Recipe

SCHEMA = 2
SUPERPIXELS, COVER, POOLED, FEATURES, LAYERS, CLS, SAM, ORDER = (
    "superpixels",
    "cover",
    "pooled",
    "features",
    "layers",
    "cls",
    "sam",
    "order",
)
KINDS = (SUPERPIXELS, COVER, POOLED, FEATURES, LAYERS, CLS, SAM, ORDER)  # in the order of writing
ENCODED = frozenset({POOLED, FEATURES, LAYERS, CLS})  # one pass of the vision encoder makes these

# Libraries whose version may change the stored bits of any layer.
STORED = ("numcodecs", "numpy")
SEEN = (*STORED, "pillow", "torch", "torchvision")


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a plan.

    kind       of `KINDS`
    name       tells layers of one kind apart for people, such as "dinov2_vitl14_reg-518"
    made       canonical JSON value of what decides its bits beside the images: settings, versions
               of libraries and sizes
    needs      the layers it is computed from
    arrays     what it stores
    k          superpixels at most, 0 of layers that count none
    """

    kind: str
    name: str
    made: Mapping[str, Any]
    needs: tuple["Layer", ...]
    arrays: tuple[ArraySpec, ...]
    images: Images
    shard_size: int
    k: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and (self.folder, self.id) == (other.folder, other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def folder(self) -> str:
        """Its folder in the cache."""
        return f"{self.kind}/{self.name}"

    @cached_property
    def recipe_id(self) -> str:
        """sha256, hex, of what decides the bits of a row, whatever the image list."""
        needs = {layer.kind: layer.recipe_id for layer in self.needs}
        return _sha256({"kind": self.kind, "made": self.made, "needs": needs})

    @cached_property
    def data(self) -> bytes:
        """The bytes of layer.json."""
        return canonical(
            {
                "schema_version": SCHEMA,
                "kind": self.kind,
                "made": self.made,
                "needs": {layer.kind: layer.id for layer in self.needs},
                "images": self.images.digest,
                "shard_size": self.shard_size,
            }
        )

    @cached_property
    def id(self) -> str:
        """sha256 of layer.json, hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def num_shards(self) -> int:
        """Shards, the last one maybe short; an empty image list has none."""
        return -(-len(self.images) // self.shard_size)

    def rows(self, shard: int) -> range:
        """Rows of shard `shard`. Raises ConfigError if there is no such shard."""
        if not 0 <= shard < self.num_shards:
            raise ConfigError(f"shard {shard}: the plan has shards 0 to {self.num_shards - 1}")
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.images)))

    def shard(self, shard: int) -> tuple[PlanImage, ...]:
        """The images of shard `shard`."""
        rows = self.rows(shard)
        return self.images[rows.start : rows.stop]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a plan's arrays; see `plan.Plan`. `multi` is the shape of `layers`, None without."""

    grid: tuple[int, int]
    channels: int
    multi: tuple[int, int, int] | None
    multi_channels: int
    sspe: tuple[int, int]
    rle_bytes: int
    sam: tuple[int, int, int] | None


def layers_of(recipe: "Recipe", sizes: Sizes, images: Images, shard_size: int) -> tuple[Layer, ...]:
    """The layers of a plan, in the order they are written."""
    k = recipe.superpixels.max_superpixels
    specs = array_specs(
        k=k,
        patches=sizes.grid[0] * sizes.grid[1],
        channels=sizes.channels,
        mask_bytes=-(-sizes.sspe[0] * sizes.sspe[1] // 8),
        rle_bytes=sizes.rle_bytes,
        stored=recipe.features.stored,
        means=_mean_channels(recipe, sizes),
        layers=None if recipe.features.thin else sizes.multi,
        cls=recipe.features.cls,
        sam=sizes.sam,
        sam_int8=recipe.sam_stored == "int8",
        order=recipe.order is not None,
    )
    made, names = _made(recipe, sizes), _names(recipe)
    layers: dict[str, Layer] = {}
    for kind in KINDS:
        if kind not in specs:
            continue
        found = Layer(
            kind=kind,
            name=names[kind],
            made=made[kind] | {"libraries": _libraries(kind, recipe)},
            needs=tuple(layers[need] for need in needs_of(kind, recipe.features)),
            arrays=(),
            images=images,
            shard_size=shard_size,
            k=k if kind == SUPERPIXELS else 0,
        )
        arrays = tuple(replace(spec, layer=found.folder) for spec in specs[kind])
        layers[kind] = replace(found, arrays=arrays)
    return tuple(layers.values())


def _mean_channels(recipe: "Recipe", sizes: Sizes) -> int:
    """Channels of the stored means, 0 without: of the features and, in a thin cache, of all maps."""
    if not recipe.features.means:
        return 0
    return sizes.channels + (sizes.multi_channels if recipe.features.thin else 0)


def _has_blocks(features: "FeatureConfig") -> bool:
    """Whether the means are of other maps too."""
    return features.thin and features.stored_layers > 0


def needs_of(kind: str, features: "FeatureConfig") -> tuple[str, ...]:
    """Kinds of the layers that one of `kind` is computed from."""
    match kind:
        case "cover":
            return (SUPERPIXELS,)
        case "pooled":
            return (COVER,)
        case "features" if features.stored == "mean+int4":
            return (COVER, POOLED)
        case "order":
            return (SUPERPIXELS, COVER, POOLED if features.means else FEATURES)
    return ()


def library_names(recipe: "Recipe") -> list[str]:
    """Packages that decide stored bits of any layer under `recipe`, sorted."""
    return sorted({name for kind in KINDS for name in _library_names(kind, recipe)})


def _made(recipe: "Recipe", sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Settings and sizes that decide each kind of layer."""
    pixels = recipe.superpixels.model_dump(mode="json")
    features = recipe.features.model_dump(mode="json")
    sam = {name: pixels[name] for name in ("model", "package", "weights", "mode", "dtype")}
    if recipe.sam_stored != "float16":
        sam |= {"stored": recipe.sam_stored}
    if recipe.superpixels.prompts_sam:
        own = {name: value for name, value in pixels.items() if name != "slic"}
        own |= {"batch": recipe.batch}
    else:
        wanted = (
            "source",
            "made",
            "max_superpixels",
            "cap",
            *(["slic"] if pixels["source"] == "slic" else []),
        )
        own = {name: pixels[name] for name in wanted if name in pixels}
    view = {name: features[name] for name in ("view", "size")}
    encoder = view | {name: features[name] for name in ("encoder", "weights", "dtype")}
    encoder |= {"batch": recipe.batch, "grid": list(sizes.grid), "channels": sizes.channels}
    blocks = {"layers": features["layers"], "second": features.get("second")}
    prior = recipe.order.prior if recipe.order else ""
    return {
        SUPERPIXELS: own | {"rle_bytes": sizes.rle_bytes},
        COVER: view
        | {"grid": list(sizes.grid), "budget": recipe.sspe.budget, "sspe": list(sizes.sspe)},
        POOLED: encoder | (blocks if _has_blocks(recipe.features) else {}),
        FEATURES: encoder | {"stored": features["stored"]},
        LAYERS: encoder | blocks,
        CLS: encoder,
        SAM: sam | {"batch": recipe.batch, "shape": list(sizes.sam or ())},
        ORDER: {"prior": hashlib.sha256(prior.encode()).hexdigest()},
    }


def _names(recipe: "Recipe") -> dict[str, str]:
    pixels, features = recipe.superpixels, recipe.features
    own = f"{pixels.source}-{pixels.model}" if pixels.prompts_sam else pixels.source
    own += f"-{pixels.preset}" if pixels.prompts_sam and pixels.preset != "svp" else ""
    view = f"{features.size}" + (f"-{features.view}" if features.view != "squash" else "")
    encoder = f"{features.encoder}-{view}"
    blocks = "".join(f"-{block}" for block in features.layers)
    blocks += f"+{features.second.encoder}" if features.second else ""
    return {
        SUPERPIXELS: own,
        COVER: f"{own}-{view}",
        POOLED: encoder + (blocks if _has_blocks(features) else "") + f"-{own}",
        FEATURES: encoder
        + (f"-{features.stored}" if features.stored != "float16" else "")
        + (f"-{own}" if features.stored == "mean+int4" else ""),
        LAYERS: encoder + blocks,
        CLS: encoder,
        SAM: pixels.model + (f"-{recipe.sam_stored}" if recipe.sam_stored != "float16" else ""),
        ORDER: encoder + f"-{own}",
    }


def _library_names(kind: str, recipe: "Recipe") -> tuple[str, ...]:
    pixels = recipe.superpixels
    match kind:
        case "superpixels" if pixels.source in USUAL_SAM:
            return (*SEEN, "scipy", pixels.package, *SAMS[pixels.model].packages)
        case "superpixels" if pixels.source == "slic":
            return (*STORED, "pillow", "scikit-image", "scipy")
        case "superpixels":
            return (*STORED, "pillow")
        case "cover":
            return STORED
        case "sam":
            used = recipe.store_sam_embeddings
            return (*SEEN, pixels.package, *SAMS[pixels.model].packages) if used else ()
        case "pooled" if not recipe.features.means:
            return ()
        case "order":
            return (*STORED, "scipy") if recipe.order else ()
    sparse = kind == POOLED or COVER in needs_of(kind, recipe.features)
    return (*SEEN, "transformers", *_packages(kind, recipe), *(["scipy"] if sparse else []))


def _packages(kind: str, recipe: "Recipe") -> tuple[str, ...]:
    """Further packages that compute the encoder, or the two of them, that a layer is of."""
    features = recipe.features
    found = ENCODERS[features.encoder].packages
    both = kind == LAYERS or (kind == POOLED and _has_blocks(features))
    return found + ENCODERS[features.second.encoder].packages if both and features.second else found


def _libraries(kind: str, recipe: "Recipe") -> dict[str, str]:
    known = recipe.libraries
    return {name: known[name] for name in sorted(_library_names(kind, recipe)) if name in known}


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
