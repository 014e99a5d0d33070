"""Resolve flags and recipe files into one `TrainRecipe` and its `LocalPaths`.

Order, later wins: the size's recipe in `workflows/train/` or a recipe file, single flags,
`--set a.b=c`. Weights given as a path enter the recipe as their sha256, never as a path.
"""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..pipeline.cache.row_tier import RowTier
from ..pipeline.display import counted, show
from ..pipeline.errors import ConfigError, MissingError, PlanMismatchError
from ..pipeline.fetch.catalogue import CHECKPOINTS, PREFIX
from ..pipeline.io.paths import expand
from ..pipeline.io.yaml_files import Override, group, load_yaml, override_of, shipped_yaml
from ..pipeline.store import Place
from ..pipeline.weights.load import weights_digest
from ..pipeline.weights.locate import LM_FILES, find_checkpoint, hub_folder
from ..pipeline.weights.reference import SHIPPED, Kind, WeightsRef
from ..pipeline.weights.rehearsal import shrink_for_rehearsal
from .recipe import BESIDE, CONFIG, TrainRecipe, parse_train_recipe

EXPORTED: Literal["svp"] = "svp"  # a folder of `svp export`
WITHOUT_FILE: tuple[Kind, ...] = ("random", "shipped", "none")
TINY_MODEL = "workflows/tiny/lm/ris.safetensors"
TINY_TEXT_MODEL = "workflows/tiny/world2/lm/model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """The single flags of `svp train` that change the recipe; None = not given."""

    seed: int | None = None
    projector: str | None = None
    optimizer: str | None = None
    order: str | None = None
    micro_batch: int | None = None
    steps: int | None = None
    budget: str | None = None
    lm: str | None = None
    init: str | None = None
    sam_decoder: str | None = None


@dataclass(frozen=True)
class Places:
    """Local paths of weights; None: shipped, random or not used."""

    lm: Path | None = None
    init: Path | None = None
    sam_decoder: Path | None = None


def resolve_train(
    size: str | None,
    recipe_file: Path | None,
    flags: TrainFlags,
    overrides: Sequence[str | Override],
    *,
    weights: bool = True,
) -> tuple[TrainRecipe, Places]:
    """The recipe and the places of a run. Raises ConfigError, MissingError, WeightsError.

    size     None: tiny
    weights  False: they need not be there, for a dry run
    """
    size = size or "tiny"
    raw = _raw_recipe(size, recipe_file, flags, overrides)
    parse_train_recipe(raw, str(recipe_file or size))  # a wrong field is told before files are read
    places = place_weights(raw["model"], flags, read=weights)
    return parse_train_recipe(raw, str(recipe_file or size)), places


def resolve_plain(
    size: str | None,
    recipe_file: Path | None,
    flags: TrainFlags,
    overrides: Sequence[str | Override],
) -> TrainRecipe:
    """The recipe before weights are placed. Raises MissingError, ConfigError: what is mistyped."""
    from ..model.projectors import projector_class

    recipe = resolve_fields(size, recipe_file, flags, overrides)
    projector_class(recipe.model.projector.name)
    return recipe


def resolve_fields(
    size: str | None,
    recipe_file: Path | None,
    flags: TrainFlags,
    overrides: Sequence[str | Override],
) -> TrainRecipe:
    """`resolve_plain` without a look at the projector's name, which imports PyTorch."""
    size = size or "tiny"
    raw = _raw_recipe(size, recipe_file, flags, overrides)
    return parse_train_recipe(raw, str(recipe_file or size))


def _raw_recipe(
    size: str, recipe_file: Path | None, flags: TrainFlags, overrides: Sequence[str | Override]
) -> dict[str, Any]:
    raw = load_yaml(recipe_file) if recipe_file else shipped_yaml("train", size)
    for name in BESIDE if recipe_file and recipe_file.name == CONFIG else ():
        raw.pop(name, None)  # the recipe of a run
    for name in ("model", "run", "data"):
        group(raw, name, str(recipe_file or size))
    _apply_flags(raw, flags)
    for override in overrides:
        override_of(override).apply(raw)
    if flags.steps is not None:
        shorten(raw, flags.steps)
    shrink_for_rehearsal(lambda settings: settings.train(raw))
    return raw


def shorten(raw: dict[str, Any], steps: int) -> None:
    """Give a raw recipe so many steps in all, for a short try: its stages and their warm-ups shrink
    or grow in proportion, and it logs and saves at least ten times. Raises ConfigError.
    """
    stages = raw.get("stages")
    if not (isinstance(stages, list) and stages and all(_has_steps(stage) for stage in stages)):
        return  # told by the recipe's own check
    whole = sum(stage["steps"] for stage in stages)
    if steps < len(stages):
        raise ConfigError(
            f"--steps {steps}: the recipe has {counted(len(stages), 'stage')}, each needs one"
        )
    done = before = 0
    for number, stage in enumerate(stages, 1):
        done += stage["steps"]
        rest = len(stages) - number
        end = min(max(before + 1, round(steps * done / whole)), steps - rest)
        own, warmup = end - before, stage.get("warmup", 100)
        if isinstance(warmup, int):
            stage["warmup"] = min(round(warmup * own / stage["steps"]), own - 1)
        stage["steps"], before = own, end
    often = max(1, steps // 10)
    for name, default in (("log", 10), ("checkpoint", 250)):
        value = raw["run"].get(name, default)
        raw["run"][name] = min(value, often) if isinstance(value, int) else value


def _has_steps(stage: Any) -> bool:
    steps = stage.get("steps") if isinstance(stage, dict) else None
    return isinstance(steps, int) and steps > 0


def _apply_flags(raw: dict[str, Any], flags: TrainFlags) -> None:
    top = {"seed": flags.seed, "optimizer": flags.optimizer, "budget": flags.budget}
    raw.update({name: value for name, value in top.items() if value is not None})
    if flags.order is not None:
        raw["data"]["order"] = flags.order
    if flags.micro_batch is not None:
        raw["run"]["micro_batch"] = flags.micro_batch
    if flags.projector is not None:
        raw["model"]["projector"] = {"name": flags.projector}


def place_weights(model: dict[str, Any], flags: TrainFlags, *, read: bool = True) -> Places:
    """Places of the weights that `model`, raw recipe values, names; a path given becomes its sha256.

    read  False: files are neither asked for nor hashed

    Raises MissingError (not given, not there), PlanMismatchError (another file than the recipe's).
    """
    places = Places()
    if flags.init is None and flags.lm is not None:  # a language model alone is asked for
        model["init"] = "none"
        model.setdefault("sam_decoder", "random:0")
    for name in ("lm", "init", "sam_decoder"):
        given: str | None = getattr(flags, name)
        asked = _asked(model, name)
        if given is None:
            if read:
                _refuse_unplaced(name, asked)
        elif not read and expand(given).exists():
            if not asked.on_disk:
                own = name == "init" and _is_export(expand(given))
                model[name] = EXPORTED if own else "given"
        elif ready := WeightsRef.from_option(given, WITHOUT_FILE, _flag(name)):
            model[name] = str(ready)
        else:
            path = _place(given)
            model[name] = _digest(path, name, asked)
            places = replace(places, **{name: path})
    for name, file in (("init", TINY_MODEL), ("lm", TINY_TEXT_MODEL)) if read else ():
        if name in model and _asked(model, name).kind == "shipped":
            model[name] = _shipped_digest(_asked(model, name), file)
    return places


def _asked(model: dict[str, Any], name: str) -> WeightsRef:
    """Weights of a part in the raw recipe; `none` if it names none."""
    return WeightsRef.parse(model.get(name, "none"), where=f"model.{name}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _place(given: str) -> Path:
    """A path, the folder of `hub:owner/name` in the hub's cache, a public checkpoint by its name, or
    the language model of an installed package.

    Raises ConfigError, MissingError, MissingPackageError.
    """
    if given.startswith(PREFIX):
        return hub_folder(given.removeprefix(PREFIX), LM_FILES)
    path = expand(given)
    if not path.exists():
        from ..model.language.packaged import SMOLLM2, smollm2_folder

        if given == SMOLLM2:
            return smollm2_folder()
    known = None if path.exists() or given not in CHECKPOINTS else find_checkpoint(given)
    return known or path


def _is_export(folder: Path) -> bool:
    from ..model.pretrained.config import is_export  # imports PyTorch

    return is_export(folder)


def _shipped_digest(asked: WeightsRef, file: str) -> str:
    """`shipped:<digest>`: a run must not resume with the shipped weights of another version."""
    with importlib.resources.as_file(importlib.resources.files("svp") / file) as path:
        if not path.is_file():
            raise MissingError(f"{file} is not in this package: reinstall svp")
        found = WeightsRef("shipped", weights_digest(path)[:16])
    if asked not in (SHIPPED, found):
        raise PlanMismatchError(
            f"the recipe starts from {asked}, this package ships {found}: "
            "install the version of svp the run was started with, or start a new run"
        )
    return str(found)


def _digest(path: Path, name: str, asked: WeightsRef) -> str:
    flag = _flag(name)
    if not path.exists():
        known = CHECKPOINTS.get(path.name)
        how = (
            known.how
            if known
            else f"`svp fetch` lists SAM's weights, with {flag} PATH"
            if name == "sam_decoder"
            else f"give a model folder, or {PREFIX}OWNER/NAME for one in the hub's local cache; "
            "`svp fetch` lists the public ones"
        )
        raise MissingError(f"{flag} {show(str(path), 200)}: does not exist: {how}")
    own = name == "init" and _is_export(path)
    found = WeightsRef(EXPORTED if own else "sha256", weights_digest(path))
    if asked.on_disk and asked != found:
        raise PlanMismatchError(
            f"{show(str(path), 200)} has {found}, but the recipe asks for {asked}: "
            f"give that file with {flag}"
        )
    return str(found)


def _refuse_unplaced(name: str, asked: WeightsRef) -> None:
    if asked.kind in ("sha256", EXPORTED, "given"):
        flag = _flag(name)
        raise MissingError(
            f"the recipe starts from model.{name}={asked}: give its path with {flag} PATH "
            f"(or try the code with random weights: {flag} random:0)"
        )


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Data options of a command; None: the data that the caches were made from.

    allow_empty   empty masks in val and test are meant: no notice about them
    max_failures  images and records that may be left out because something is wrong with them;
                  None: any number of images, half of the records
    """

    dataset: str | None = None
    images: Path | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    max_failures: int | None = None


def require_live(live: bool, sam: Path | None, encoder: Path | None) -> None:
    """ConfigError for a weight file that is named although features come from a cache."""
    for flag, path in (("--sam-weights", sam), ("--encoder-weights", encoder)):
        if path is not None and not live:
            raise ConfigError(
                f"{flag} {show(str(path), 200)} would not be read, since features come from the "
                "cache: leave it out, or add --live"
            )


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Options of `svp train`.

    caches     of the training split; none: the newest complete one under `caches`
    validate   cache of held-out images, for scores while training; validate_dataset  their data,
               None: what that cache was made from
    tier       keeps rows of caches in object storage on this machine
    limit      only the first so many images with sentences that the caches hold
    live       encoders in the loop instead of the caches' rows
    partial    accept images that the caches do not hold
    size       None: tiny, on generated scenes only
    runs       folder of the runs, or the store of an address where they are kept
    resume     None, "auto", a run or a checkpoint, by folder or address
    log        trackers by commas, or none (`trainer.trackers`); None: TensorBoard if installed
    hint       the command line, told when the run is stopped
    """

    caches: tuple[Place, ...] = ()
    tier: RowTier | None = None
    data: DataRequest = field(default_factory=DataRequest)
    size: str | None = None
    recipe_file: Path | None = None
    flags: TrainFlags = field(default_factory=TrainFlags)
    overrides: tuple[str | Override, ...] = ()
    validate: Place | None = None
    validate_dataset: str | None = None
    limit: int | None = None
    live: bool = False
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    partial: bool = False
    runs: Place = Path("runs")
    resume: str | None = None
    device: str = "auto"
    deterministic: bool = False
    skip_nonfinite: int = 0
    log: str | None = None
    hint: str = "svp train --resume auto"

    def __post_init__(self) -> None:
        require_live(self.live, self.sam_weights, self.encoder_weights)
