"""Recipe of a cache: every setting that changes its bits; canonical JSON in the plan's digest.

Places (folders, weight files, devices) are not here: they are `records.LocalPaths`. A field that changes
one stored bit belongs here; a field that changes none does not.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from . import plugins
from .errors import ConfigError
from .fetch.encoder_specs import ENCODERS, EncoderSpec
from .fetch.sam_specs import SAMS, USUAL_SAM, SamSpec
from .io.settings import Frozen, explain
from .weights.reference import SHIPPED, Kind, WeightsRef, forms

Triple = tuple[float, float, float]
MOST_SUPERPIXELS = 1024
BASE64 = r"^([A-Za-z0-9+/]+={0,2})?$"
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def weights_of(*kinds: Kind) -> Callable[[object], WeightsRef]:
    """Validator of a field that holds one of `kinds`; the recipe's text stays what it was."""

    def check(value: object) -> WeightsRef:
        try:
            return WeightsRef.parse(str(value) if isinstance(value, WeightsRef) else value, kinds)
        except ConfigError:
            raise ValueError(f"write {forms(kinds)}") from None

    return check


WEIGHTS: tuple[Kind, ...] = ("auto", "shipped", "random", "sha256")
Weights = Annotated[
    WeightsRef,
    PlainValidator(weights_of(*WEIGHTS)),
    PlainSerializer(str, return_type=str),
]


class GridConfig(Frozen):
    """SAM grid prompting and the FMA-WSSS selection; every parameter of the published table.

    Source: HAL-42/FMA-WSSS configs/sam_auto_seg/patterns/mask_gen_ini.py (`l2_nmsf_s1_rsw3`) and
    facebookresearch/segment-anything automatic_mask_generator.py. Triples are per SAM output level
    (sub-part, part, whole).
    """

    points_per_side: Annotated[int, Field(ge=1, le=128)] = 32
    crop_n_layers: Annotated[int, Field(ge=0, le=3)] = 0
    crop_overlap_ratio: Share = 512 / 1500
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1, le=8)] = 2
    pred_iou_thresh: Share = 0.86
    stability_score_thresh: Share = 0.92
    stability_score_offset: Annotated[float, Field(gt=0)] = 1.0
    box_nms_thresh: Share = 0.7
    crop_nms_thresh: Share = 0.7
    min_mask_region_area: Annotated[int, Field(ge=0)] = 100
    score_thresh_offset: Triple = (0.0, 0.0, 0.1)
    score_nms_offset: Triple = (0.0, 0.0, 1.0)
    stability_score_bias: Triple = (0.0, 0.0, 0.0)
    rock_sand_water_thresh: Share = 0.3


GRID_PRESETS: dict[str, GridConfig] = {
    "svp": GridConfig(),
    "fma": GridConfig(crop_n_layers=1),
    "windows": GridConfig(crop_n_layers=1),
    "hierarchical": GridConfig(),
}
# With these the grid may be another one: they say how its points are used.
ANY_GRID = ("windows", "hierarchical", "custom")


class SlicConfig(Frozen):
    """scikit-image SLIC; the defaults give a mean of 40 labels on photographs."""

    n_segments: Annotated[int, Field(ge=1, le=4096)] = 57
    compactness: Annotated[float, Field(gt=0)] = 10.0
    sigma: Annotated[float, Field(ge=0)] = 0.0


plugins.attach(plugins.ENCODERS, ENCODERS, EncoderSpec, instances=True)
plugins.attach(plugins.SAMS, SAMS, SamSpec, instances=True)


def encoder_row(name: str) -> EncoderSpec | None:
    """The row of an encoder, of this package or of a plug-in; None if there is none."""
    found: EncoderSpec | None = ENCODERS.get(name) or plugins.find(plugins.ENCODERS, name)
    return found


def sam_row(name: str) -> SamSpec | None:
    """The row of a SAM, of this package or of a plug-in; None if there is none."""
    found: SamSpec | None = SAMS.get(name) or plugins.find(plugins.SAMS, name)
    return found


def _one_of(name: str, row: object, known: Iterable[str]) -> str:
    """`name` if it has a row; the error says what pydantic says of a `Literal`."""
    if row is None:
        *others, last = [repr(one) for one in known]
        expected = f"{', '.join(others)} or {last}" if others else last
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": expected}
        )
    return name


SamName = Annotated[str, AfterValidator(lambda name: _one_of(name, sam_row(name), SAMS))]
EncoderName = Annotated[
    str, AfterValidator(lambda name: _one_of(name, encoder_row(name), ENCODERS))
]


class SuperpixelConfig(Frozen):
    """Settings of the superpixel generator.

    source  sam and mobile_sam are prompted on a grid. slic, masks (of a folder) and plug-ins by
            name need no SAM; with `store_sam_embeddings`, `model` and `weights` name the SAM whose
            embedding is stored beside
    made    of masks the folder's digest, of a plug-in its version and digest; else empty, and then
            no part of the recipe's digest
    cap     of `max_superpixels`, "" the largest; else a prior of shapes alone (`OrderConfig.shape`), by
            which the most worthy stay; "" is no part of the recipe's digest
    preset  windows: each window of the last crop layer by itself; hierarchical: every second point of
            the grid first, the others where no sure whole lies
    """

    _later: ClassVar[frozenset[str]] = frozenset({"made", "cap"})

    source: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")] = "sam"
    made: Annotated[str, Field(max_length=200)] = ""
    model: SamName = "tiny"
    package: Literal["segment-anything", "transformers"] = "segment-anything"
    weights: Weights = SHIPPED
    mode: Literal["exact", "fast"] = "exact"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    preset: Literal["svp", "fma", "windows", "hierarchical", "custom"] = "svp"
    grid: GridConfig = GridConfig()
    points_per_batch: Annotated[int, Field(ge=1, le=4096)] = 256
    slic: SlicConfig = SlicConfig()
    max_superpixels: Annotated[int, Field(ge=1, le=MOST_SUPERPIXELS)] = 256
    cap: Annotated[str, Field(max_length=1024, pattern=BASE64)] = ""

    @property
    def prompts_sam(self) -> bool:
        """Whether the superpixels are SAM's or MobileSAM's."""
        return self.source in USUAL_SAM

    @model_validator(mode="after")
    def _consistent(self) -> "SuperpixelConfig":
        if self.mode == "exact" and self.dtype != "float32":
            raise ValueError(f"mode=exact needs dtype=float32, got {self.dtype}: set mode=fast")
        own, only = SAMS[self.model].source, SAMS[self.model].package
        if only and self.package != only:
            raise ValueError(f"model={self.model} needs {only}: set package={only}")
        if self.prompts_sam and self.source != own:
            raise ValueError(
                f"source={self.source} does not go with model={self.model}: set source={own}, or "
                f"model={USUAL_SAM[self.source]}"
            )
        if self.preset == "windows" and self.grid.crop_n_layers < 1:
            raise ValueError("preset=windows needs grid.crop_n_layers >= 1")
        if self.preset not in ANY_GRID and self.grid != GRID_PRESETS[self.preset]:
            raise ValueError(f"grid differs from preset={self.preset}: set preset=custom")
        return self


class SecondEncoder(Frozen):
    """An encoder beside the first, with its view and precision.

    size  of its view; None: the first one's, and then it is in no digest
    """

    _later: ClassVar[frozenset[str]] = frozenset({"size"})

    encoder: EncoderName
    weights: Weights = SHIPPED
    size: Annotated[int, Field(ge=14, le=1024)] | None = None


class FeatureConfig(Frozen):
    """The frozen vision encoder whose patch features are stored.

    stored  of the features; mean+int4: the mean of each superpixel, and four bits for the rest; mean:
            the mean of each superpixel alone, also of `layers` and `second` (a thin cache)
    second  another one, whose last layer, on the first one's patch grid, is stored after `layers`
    pooled  whether the mean of each superpixel is stored beside the features

    A recipe without `second` or `pooled` has the digest it had before there were these fields.
    """

    _later: ClassVar[frozenset[str]] = frozenset({"second", "pooled"})

    encoder: EncoderName = "tiny"
    weights: Weights = SHIPPED
    view: Literal["squash", "center_crop", "pad", "clip"] = "squash"
    size: Annotated[int, Field(ge=14, le=1024)] = 128
    layers: tuple[int, ...] = ()  # extra 1-based block outputs, stored beside the last
    cls: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    stored: Literal["float16", "int8", "mean+int4", "mean"] = "float16"
    second: SecondEncoder | None = None
    pooled: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureConfig":
        if self.pooled and self.thin:
            raise ValueError("pooled=true: stored=mean stores the means already: leave it out")
        row = encoder_row(self.encoder)
        if self.cls and row is not None and not row.cls:
            raise ValueError(f"cls=true: {self.encoder} has no CLS token: leave it out")
        return self

    @property
    def means(self) -> bool:
        """Whether the means of the superpixels are stored."""
        return self.pooled or self.stored in ("mean", "mean+int4")

    @property
    def thin(self) -> bool:
        """Whether no patch features are stored, but the means of the superpixels."""
        return self.stored == "mean"

    @property
    def stored_layers(self) -> int:
        """Maps beside the features, side by side or stacked."""
        return len(self.layers) + (self.second is not None)

    @property
    def beside(self) -> "FeatureConfig | None":
        """The second encoder as a configuration of its own, None if there is none."""
        if self.second is None:
            return None
        named = {"encoder": self.second.encoder, "weights": self.second.weights}
        named |= {"size": self.second.size or self.size}
        return self.model_copy(
            update=named | {"second": None, "layers": (), "cls": False, "pooled": False}
        )

    @property
    def name(self) -> str:
        """The encoders as `--encoder` takes them."""
        return self.encoder + (f"+{self.second.encoder}" if self.second else "")


class MaskGridConfig(Frozen):
    """Pixels of a stored mask that the SSPE encoder reads.

    4,096 (64x64) is what the default `per_mask` mode reads; the projector's `per_image` mode shares
    163,840 among an image's superpixels and wants more of each: 16,384 serves images of 10.
    """

    budget: Annotated[int, Field(ge=16, le=65536)] = 4096


class OrderConfig(Frozen):
    """The prior that superpixels are ranked by, see `pipeline.cache.worth`.

    prior       its weights, float32 in base64
    thresholds  worth above which a superpixel is kept, for mean counts of 1, 2, ... on the images that
                the prior was fitted on; of the choice of superpixels, not of the stored bits
    shape       another prior, of what is known of a superpixel before there are features; "" in orders that
                were made before there was this field
    """

    _later: ClassVar[frozenset[str]] = frozenset({"shape"})

    prior: Annotated[str, Field(max_length=1 << 20, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
    thresholds: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=1024)
    ]
    shape: Annotated[str, Field(max_length=1024, pattern=BASE64)] = ""

    @model_validator(mode="after")
    def _falling(self) -> "OrderConfig":
        if any(a < b for a, b in pairwise(self.thresholds)):
            raise ValueError("thresholds must not rise")
        return self


class Recipe(Frozen):
    """Everything that decides the stored bits, beside the images themselves.

    sam_stored  type of the stored SAM embeddings; a recipe with float16 has the digest it had before
                there was this field
    order       of the superpixels by worth, None: none is stored, and it is in no digest
    """

    _later: ClassVar[frozenset[str]] = frozenset({"sam_stored", "order"})

    superpixels: SuperpixelConfig = SuperpixelConfig()
    features: FeatureConfig = FeatureConfig()
    sspe: MaskGridConfig = MaskGridConfig()
    store_sam_embeddings: bool = False
    sam_stored: Literal["float16", "int8"] = "float16"
    order: OrderConfig | None = None
    batch: Annotated[int, Field(ge=1, le=64)] = 8
    libraries: dict[str, str] = Field(
        default_factory=dict
    )  # versions of the packages that affect bits

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.sam_stored != "float16" and not self.store_sam_embeddings:
            raise ValueError(
                f"sam_stored={self.sam_stored}: no SAM embedding is stored: set "
                "store_sam_embeddings=true"
            )
        return self

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal recipes give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of `canonical()`, hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def thin(recipe: Recipe) -> Recipe:
    """`recipe` with means of superpixels for features, and SAM embeddings, if any, in int8."""
    features = recipe.features.model_copy(update={"stored": "mean", "pooled": False})
    sam = "int8" if recipe.store_sam_embeddings else recipe.sam_stored
    # An order is one of the means as they are stored: another cache's is made anew.
    order = recipe.order if recipe.features.thin else None
    changed = {"features": features, "sam_stored": sam, "order": order}
    return recipe.model_copy(update=changed)


def in_float16(recipe: Recipe) -> Recipe:
    """`recipe` with everything stored as it was computed: float16 rounds, the rest is made of it."""
    features = recipe.features.model_copy(update={"stored": "float16", "pooled": False})
    return recipe.model_copy(update={"features": features, "sam_stored": "float16"})


def parse_recipe(raw: object, where: str) -> Recipe:
    """A `Recipe` from untrusted data; every wrong field is named in one `ConfigError`."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, Recipe)}") from None
