"""`svp cache add`: one more layer for a finished cache; what is there is not computed again."""

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..cache.layers import CLS, FEATURES, LAYERS, POOLED, SAM, SUPERPIXELS
from ..cache.places import image_root_of
from ..cache.plan import Plan, all_plans
from ..datasets.stored_photos import listing
from ..display import show
from ..errors import ConfigError, MissingError
from ..recipe import Recipe
from ..records import ImageRecord, LocalPaths
from ..store import Place
from .options import Flags, resolve
from .planner import Content
from .purpose import Stores, stores
from .run import RunOptions, precompute
from .run_report import PrecomputeReport

ADDED = (SUPERPIXELS, FEATURES, LAYERS, CLS, SAM, POOLED)
ENCODER = ("encoder", "encoder_weights", "second_weights", "features")
SAMS = ("sam_model", "sam_weights", "mode", "dtype")
READ: dict[str, tuple[str, ...]] = {  # flags by kind
    FEATURES: ENCODER,
    LAYERS: ENCODER,
    CLS: ENCODER,
    POOLED: ("encoder_weights", "second_weights"),
    SAM: (*SAMS, "sam_stored"),
    SUPERPIXELS: (
        *SAMS,
        "superpixels",
        "masks",
        "preset",
        "points_per_side",
        "max_superpixels",
        "cap_by",
    ),
}
UNREAD = {"weights": "random:0"}  # of models that compute nothing here: their files may be gone


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """Options of `svp cache add`.

    kind       of `ADDED`
    images     folder or address of the photographs; None: where they were
    flags      encoder and SAM with their weights; None: those of the cache
    projector  whose blocks `layers` are to be
    """

    cache: Place
    kind: str
    images: Path | None = None
    flags: Flags = field(default_factory=Flags)
    overrides: tuple[str, ...] = ()
    projector: str = "tokenpacker"
    run: RunOptions = field(default_factory=RunOptions)


def add_layer(request: AddRequest) -> PrecomputeReport:
    """Compute the layer and make the cache's plan with it readable.

    Raises MissingError for photographs or weights that are not there, PlanMismatchError for a
    layer of that name made otherwise, ConfigError, and what `precompute` raises.
    """
    _check_read(request)
    plans = all_plans(request.cache)
    root = request.images or image_root_of(request.cache)
    if root is None:
        raise MissingError(
            f"the photographs of {show(str(request.cache), 300)} are not where they were: name their "
            "folder with --images"
        )
    # The plan with most layers is the one to go on from: what was added before stays together, and
    # what is added to a thin cache goes with the patches if there are any.
    base = max(plans.values(), key=lambda plan: (not plan.thin, len(plan.layers)))
    recipe, where = _resolved(base, request, root)
    content = Content(
        [ImageRecord(*image[:4]) for image in base.images], base.split, dict(base.digests),
        listing(root),
    )  # fmt: skip
    return precompute(content, recipe, where, request.cache, request.run)


def _check_read(request: AddRequest) -> None:
    """ConfigError for an option that the layer's kind does not read."""
    if request.run.limit is not None:
        raise ConfigError("--limit: a layer is made for all images of its cache: leave it out")
    if request.flags.features == "mean":
        raise ConfigError(
            "--features mean: the means alone are KIND pooled: `svp cache add CACHE pooled`"
        )
    for name, value in asdict(request.flags).items():
        if value is not None and name not in READ[request.kind]:
            raise ConfigError(
                f"--{name.replace('_', '-')} is not read when {request.kind} are added: leave it out"
            )


def _resolved(base: Plan, request: AddRequest, root: Path) -> tuple[Recipe, LocalPaths]:
    """The recipe of `base` with the layer, and the weights that it needs."""
    kind, flags = request.kind, request.flags
    raw: dict[str, Any] = base.recipe.model_dump(mode="json", exclude={"libraries"})
    pixels, features = raw["superpixels"], raw["features"]
    keep_pixels = kind in (FEATURES, LAYERS, CLS, POOLED)
    default = Stores()
    if kind == SAM:
        if base.recipe.store_sam_embeddings:
            raise ConfigError(f"{show(str(request.cache), 300)} holds SAM's embeddings already")
        raw["store_sam_embeddings"] = True
        features |= UNREAD
    elif kind == SUPERPIXELS:
        features |= UNREAD
    elif kind == POOLED:
        if base.recipe.features.means:
            raise ConfigError(f"{show(str(request.cache), 300)} holds the means already")
        features["pooled"] = True
    elif kind == CLS:
        features["cls"] = True
    elif kind == LAYERS:
        features.pop("layers")
        default = replace(stores("train", request.projector), sam=False, cls=False)
    elif features["stored"] == "mean":
        features["stored"] = "float16"  # patches for a thin cache
    if kind == SUPERPIXELS or (
        kind == FEATURES and flags.encoder not in (None, base.recipe.features.name)
    ):
        raw.pop("order", None)  # of other superpixels or features
    if kind == FEATURES and flags.encoder not in (None, base.recipe.features.name):
        features |= {"cls": False, "layers": []}
        features.pop("second", None)
        features.pop("weights", None)
    if keep_pixels:
        pixels |= UNREAD
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        recipe, where = resolve(None, path, flags, request.overrides, root, default)
    if keep_pixels:
        recipe = recipe.model_copy(update={"superpixels": base.recipe.superpixels})
    else:
        recipe = recipe.model_copy(update={"features": base.recipe.features})
    return recipe, where
