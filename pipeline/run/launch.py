"""From the command line's words to a run of `precompute`: source, recipe, places, options.

Without a dataset the embedded default is used: scenes are generated beside the cache first.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..doctor.report import DoctorReport, doctor
from ..executors.base import Event
from ..executors.devices import usable_devices
from ..records import Where
from ..scenes.generated import is_generated
from ..sources import Source, open_source
from .calibrate import calibrate
from .cost import Estimate, estimate
from .places import DataPlaces, absolute_data, image_root_of, read_places, write_places
from .planning import Content, sized_plan
from .precompute import PrecomputeReport, RunOptions, limited, precompute
from .settings import Flags, resolve

__all__ = [
    "DataPlaces",
    "Opened",
    "Request",
    "dry_run",
    "examine",
    "image_root_of",
    "launch",
    "open_request",
    "pick_device",
    "price",
    "read_places",
]

SCENES = Path("data/scenes")
SCENE_COUNT = 200


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; None means not given.

    dataset  path, or names of REFER sets under `root`; None: the generated scenes
    """

    dataset: str | None
    split: str | None
    out: Path | None
    images: Path | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    exclude_eval_images: bool = False
    size: str = "tiny"
    recipe_file: Path | None = None
    flags: Flags = field(default_factory=Flags)
    overrides: tuple[str, ...] = ()
    run: RunOptions = field(default_factory=RunOptions)
    quiet: bool = False


@dataclass(frozen=True)
class Opened:
    """A source made ready, with the name of the cache and what the cache will say it is made from."""

    source: Source
    out: Path
    places: DataPlaces


def open_request(request: Request) -> Opened:
    """Find the dataset and name the cache. Raises MissingError, DataError, ConfigError."""
    dataset = request.dataset
    if dataset is None:
        from ..scenes import write_scenes

        dataset = str(write_scenes(SCENES, images=SCENE_COUNT, seed=0))
    source = open_source(
        dataset,
        images=request.images,
        split=request.split,
        root=request.root,
        split_by=request.split_by,
        allow_google=request.allow_google,
        allow_counts=request.allow_counts,
        exclude_eval_images=request.exclude_eval_images,
    )
    name = Path(dataset).name or "images"
    out = request.out or Path("caches") / f"{name}-{request.split or 'all'}"
    return Opened(source, out, _places(request, dataset, source))


def launch(request: Request, opened: Opened) -> PrecomputeReport:
    """Make or finish the cache; raises what `precompute` raises."""
    source = opened.source
    recipe, where = resolve(
        request.size, request.recipe_file, request.flags, request.overrides, source.image_root
    )

    def on_event(event: Event) -> None:
        if event.kind == "started":  # the cache is this run's by now: a stopped run says it too
            write_places(opened.out, opened.places)

    report = precompute(
        _content(source), recipe, where, opened.out, request.run,
        on_event=on_event, quiet=request.quiet,
    )  # fmt: skip
    write_places(opened.out, opened.places)
    return report


def dry_run(request: Request, opened: Opened) -> Estimate:
    """What the run would cost on this machine: computes a few images of the dataset to measure."""
    source, options = opened.source, request.run.executor_options
    recipe, where = resolve(
        request.size, request.recipe_file, request.flags, request.overrides, source.image_root
    )
    content = limited(_content(source), request.run.limit)
    plan = sized_plan(recipe, content.split, content.digests)
    measured = calibrate(content, recipe, where, options, workers=options.workers)
    workers = len(usable_devices(options))
    return estimate(plan, len(content.images), calibration=measured, workers=workers)


def price(request: Request, device: str, images: int) -> Estimate:
    """The price of `images` images on a machine that is not here; needs no weights and no data.

    device  a key of `cost.DEVICES`
    """
    # The weights' values change no cost: random ones stand in for files nobody has to own yet.
    flags = replace(request.flags, sam_weights="random", encoder_weights="random")
    recipe, _ = resolve(
        request.size, request.recipe_file, flags, request.overrides, request.images or Path()
    )
    workers = request.run.executor_options.workers or 1
    return estimate(sized_plan(recipe), images, device=device, workers=workers)


def examine(
    flags: dict[str, Any],
    size: str,
    recipe_file: Path | None,
    overrides: tuple[str, ...],
    cache: Path | None,
) -> DoctorReport:
    """`svp doctor` for the recipe these options name; missing weights are a finding, no error."""
    given = {name: flags[name] for name in ("sam_weights", "encoder_weights")}
    # Random weights stand in while the recipe is built: nothing has to be found or hashed for it.
    stand_in = Flags(**(flags | {"sam_weights": "random", "encoder_weights": "random"}))
    recipe, _ = resolve(size, recipe_file, stand_in, overrides, Path())
    sam, encoder = (Path(path) if path else None for path in given.values())
    pixels = recipe.superpixels.model_copy(update={"weights": given["sam_weights"] or "auto"})
    features = recipe.features.model_copy(update={"weights": given["encoder_weights"] or "auto"})
    needed = recipe.model_copy(update={"superpixels": pixels, "features": features})
    return doctor(recipe=needed, where=Where(Path(), sam, encoder), folder=Path(), cache=cache)


def _places(request: Request, dataset: str, source: Source) -> DataPlaces:
    where, root = absolute_data(dataset, request.root)
    return DataPlaces(
        dataset=where,
        images=source.image_root.resolve(),
        split=request.split,
        root=root,
        split_by=request.split_by,
        allow_google=request.allow_google,
        allow_counts=request.allow_counts,
        exclude_eval_images=request.exclude_eval_images,
        generated=is_generated(source.image_root / image.path for image in source.images),
    )


def _content(source: Source) -> Content:
    return Content(source.images, source.split or "", source.sha256)


def pick_device(name: str) -> str:
    """`auto` becomes `cuda` where there is a CUDA device, else `cpu`; other names are kept."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
