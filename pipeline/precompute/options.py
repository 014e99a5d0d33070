"""Resolve flags and recipe files into one `Recipe` and one `LocalPaths`.

Order, later wins: the size's recipe in `workflows/precompute/`, a recipe file, single flags,
`--set a.b=c`. Weights given as a file enter the recipe as their sha256, never as a path.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cache.order_layer import shape_prior_of
from ..display import show
from ..errors import ConfigError, PlanMismatchError, WeightsError
from ..fetch.catalogue import PREFIX
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS, USUAL_SAM
from ..io.paths import expand
from ..io.yaml_files import Override, group, load_yaml, override_of, shipped_yaml
from ..recipe import (
    ANY_GRID,
    GRID_PRESETS,
    WEIGHTS,
    FeatureConfig,
    Recipe,
    encoder_row,
    parse_recipe,
    sam_row,
)
from ..records import LocalPaths
from ..sam.build import detect_type
from ..sam.load import read_sam
from ..store import as_place, is_url
from ..weights.load import weights_digest
from ..weights.locate import find_weights, given_weights
from ..weights.reference import SHIPPED, Kind, WeightsRef
from ..weights.rehearsal import shrink_for_rehearsal
from .purpose import LOOK, Stores

SIZES = ("tiny", "small", "paper")
WORLD2 = "world2"  # the shipped recipe that stands in for tiny where the data are scenes of world 2
UNTRAINED: tuple[Kind, ...] = ("random",)  # what --sam-weights and its like take beside a path


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The single flags of `svp precompute` that change the recipe; None = not given."""

    superpixels: str | None = None
    masks: str | None = None
    sam_model: str | None = None
    sam_weights: str | None = None
    encoder: str | None = None
    encoder_weights: str | None = None
    second_weights: str | None = None
    preset: str | None = None
    points_per_side: int | None = None
    mode: str | None = None
    dtype: str | None = None
    max_superpixels: int | None = None
    cap_by: str | None = None
    features: str | None = None
    store_sam_embeddings: bool | None = None
    sam_stored: str | None = None
    thin: bool | None = None


def resolve(
    size: str | None,
    recipe_file: Path | None,
    flags: Flags,
    overrides: Sequence[str | Override],
    images: Path,
    default: Stores = LOOK,
) -> tuple[Recipe, LocalPaths]:
    """The recipe and the places of a run. Raises ConfigError, MissingError, WeightsError.

    size     a shipped recipe, see `shipped_recipe`; None: tiny
    default  what is stored where neither file, flag nor `overrides` says
    """
    size = size or SIZES[0]
    raw = load_yaml(recipe_file) if recipe_file else shipped_yaml("precompute", size)
    name = str(recipe_file or f"--size {size}")
    _require_groups(raw, name)
    _apply_flags(raw, _with_sam_type(flags))
    for override in map(override_of, overrides):
        override.apply(raw)
        _require_groups(raw, name)
        if override.path.startswith("superpixels.grid.") and not _any_grid(raw):
            raw["superpixels"]["preset"] = "custom"
    default.apply(raw)
    shrink_for_rehearsal(lambda settings: settings.precompute(raw))
    where = _place_weights(raw, flags, images)
    return parse_recipe(raw, name), where


def shipped_recipe(size: str | None, worlds: Collection[int]) -> str:
    """Name of the shipped recipe for `--size` on scenes of these worlds: each has tiny models."""
    return WORLD2 if size in (None, SIZES[0]) and set(worlds) == {2} else size or SIZES[0]


def _require_groups(raw: dict[str, Any], name: str) -> None:
    """Check the field groups that are read before the recipe is validated. Raises ConfigError."""
    pixels, _ = group(raw, "superpixels", name), group(raw, "features", name)
    if pixels.get("grid") is not None:
        group(pixels, "grid", name)
    if not isinstance(pixels.get("preset", ""), str):
        raise ConfigError(f"recipe {show(name)}: preset={show(pixels['preset'])}: want a name")


def _with_sam_type(flags: Flags) -> Flags:
    """A checkpoint given without its type says itself what it is, by its tensors' names."""
    given = flags.sam_weights
    if (
        given is None
        or flags.sam_model
        or WeightsRef.from_option(given, UNTRAINED, "--sam-weights")
    ):
        return flags
    path = given_weights(given, "--sam-weights") if is_url(given) else expand(given)
    found = detect_type(read_sam(path))
    if found is None:
        raise WeightsError(
            f"{show(given)}: none of {', '.join(SAMS)} by its tensors: name the architecture with "
            "--sam-model"
        )
    return replace(flags, sam_model=found)


def _apply_flags(raw: dict[str, Any], flags: Flags) -> None:
    pixels, features = raw["superpixels"], raw["features"]
    if flags.superpixels and flags.superpixels != pixels.get("source", "sam"):
        pixels["source"] = flags.superpixels
        # With another source the size's SAM stays: its embedding may be stored beside.
        pixels["model"] = USUAL_SAM.get(flags.superpixels, pixels.get("model", "tiny"))
    if flags.sam_model:
        pixels["model"] = flags.sam_model
        row = sam_row(flags.sam_model)
        if row is not None and row.package:
            pixels["package"] = row.package
        if row is not None and str(pixels.get("source", "sam")) in USUAL_SAM:
            pixels["source"] = row.source
    if flags.encoder:
        _name_encoders(features, flags.encoder)
    if flags.preset:
        pixels.update(preset=flags.preset, grid={})
    if pixels.get("preset") in GRID_PRESETS:
        pixels["grid"] = GRID_PRESETS[pixels["preset"]].model_dump() | (pixels.get("grid") or {})
    if flags.points_per_side:
        grid = GRID_PRESETS.get(pixels.get("preset", "svp"), GRID_PRESETS["svp"]).model_dump()
        grid |= pixels.get("grid") or {}
        kind = pixels["preset"] if _any_grid(raw) else "custom"
        pixels.update(preset=kind, grid=grid | {"points_per_side": flags.points_per_side})
    given = {
        "mode": flags.mode,
        "dtype": flags.dtype,
        "max_superpixels": flags.max_superpixels,
    }
    pixels.update({name: value for name, value in given.items() if value is not None})
    if flags.cap_by is not None:
        pixels["cap"] = shape_prior_of(as_place(flags.cap_by))
    if flags.features:
        features["stored"] = flags.features
    if flags.store_sam_embeddings is not None:
        raw["store_sam_embeddings"] = flags.store_sam_embeddings
    if flags.sam_stored:
        raw["sam_stored"] = flags.sam_stored
    if flags.thin:
        _make_thin(raw, flags)


def _make_thin(raw: dict[str, Any], flags: Flags) -> None:
    """`--thin`: means for features, SAM's embedding in int8. Raises ConfigError."""
    if flags.features not in (None, "mean"):
        raise ConfigError(
            f"--thin stores no patch features, --features {flags.features} says how: leave one out"
        )
    raw["features"]["stored"] = "mean"
    raw["features"].pop("pooled", None)
    if raw.setdefault("store_sam_embeddings", True):
        raw.setdefault("sam_stored", "int8")


def _name_encoders(features: dict[str, Any], said: str) -> None:
    """`--encoder NAME`, or NAME+NAME: two of them in one cache. Raises ConfigError."""
    name, plus, beside = said.partition("+")
    for known in (name, beside) if plus else (name,):
        if encoder_row(known) is None:
            hub = known.removeprefix(PREFIX)
            ours = next((row.name for row in ENCODERS.values() if row.hub == hub != ""), "")
            hint = f"{hub} is called {ours} here; " if ours else ""
            raise ConfigError(
                f"--encoder {show(said)}: {hint}allowed are {', '.join(ENCODERS)}, and two of "
                "them as NAME+NAME"
            )
    if name != features.get("encoder"):
        features.update(encoder=name, size=ENCODERS[name].size)
    if plus:
        features["second"] = {"encoder": beside, "weights": "auto"}
        usual = ENCODERS[beside].size
        if usual != features.get("size", FeatureConfig().size):
            features["second"]["size"] = usual


def _any_grid(raw: Mapping[str, Any]) -> bool:
    return raw["superpixels"].get("preset") in ANY_GRID


def _place_weights(raw: Mapping[str, Any], flags: Flags, images: Path) -> LocalPaths:
    sam = encoder = None
    if str(raw["superpixels"].get("source", "sam")) in USUAL_SAM:
        sam = _one_weight(raw["superpixels"], flags.sam_weights, "model", "--sam-weights")
    elif not raw.get("store_sam_embeddings"):  # no SAM is read: none may be in the digest
        raw["superpixels"].update(model="tiny", weights="shipped")
    else:
        sam = _one_weight(raw["superpixels"], flags.sam_weights, "model", "--sam-weights")
    features, second = raw["features"], None
    encoder = _one_weight(features, flags.encoder_weights, "encoder", "--encoder-weights")
    if features.get("second") is not None:
        beside = group(features, "second", "features")
        given = flags.second_weights
        if given is None and WeightsRef.from_option(
            flags.encoder_weights, UNTRAINED, "--encoder-weights"
        ):
            given = flags.encoder_weights  # untrained: both, as no file is asked for
        second = _one_weight(beside, given, "encoder", "--second-weights")
    masks = _place_masks(raw["superpixels"], flags.masks)
    return LocalPaths(images=images, sam=sam, encoder=encoder, second=second, masks=masks)


def _place_masks(pixels: dict[str, Any], given: str | None) -> Path | None:
    """Record what made superpixels that are not ours; the folder of those that were made before."""
    source = str(pixels.get("source", "sam"))
    if given is not None and source != "masks":
        raise ConfigError(f"--masks requires --superpixels masks, not {show(source)}")
    if source in (*USUAL_SAM, "slic"):
        pixels.pop("made", None)
        return None
    from ..superpixels.external import find_method, method_version, require_version
    from ..superpixels.mask_folder import folder_digest

    folder = None
    if source == "masks":
        if given is None:
            raise ConfigError("--superpixels masks: name their folder with --masks DIR")
        folder = expand(given).absolute()
        found = folder_digest(folder)
    else:
        found = method_version(find_method(source))
    if pixels.get("made"):
        require_version(source, str(pixels["made"]), found)
    pixels["made"] = found
    return folder


def _one_weight(part: dict[str, Any], given: str | None, kind: str, flag: str) -> Path | None:
    """Fill `part["weights"]` and say where the file is. The tiny models are in the package."""
    name = str(part.get(kind, "tiny"))
    row = sam_row(name) if kind == "model" else encoder_row(name)
    asked = WeightsRef.parse(part.get("weights", "auto"), WEIGHTS, f"weights of {kind} {name}")
    ready = WeightsRef.from_option(given, UNTRAINED, flag)
    if given is None and asked.kind == "random":
        ready = asked
    elif given is None and row is not None and row.shipped and asked.kind != "sha256":
        ready = SHIPPED
    if ready is not None:
        part["weights"] = str(ready)
        return None
    path = given_weights(given, flag) if given else find_weights(name, flag)
    found = WeightsRef("sha256", weights_digest(path))
    if asked.kind == "sha256" and asked != found:
        raise PlanMismatchError(
            f"{show(str(path))} has {found}, but the recipe asks for {asked}: "
            f"give that file with {flag}, or take the line out of the recipe"
        )
    part["weights"] = str(found)
    # Each machine has its own copy of what lies at an address.
    return Path(given) if given and is_url(given) else path
