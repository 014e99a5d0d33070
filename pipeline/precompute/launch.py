"""Resolve command-line options into a `precompute` run: source, recipe, paths, options.

Without a dataset the embedded default is used: scenes are generated beside the cache first.
"""

import logging
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..cache.places import DataPlaces, absolute_data, read_places, write_places
from ..cache.plan import RLE_BYTES, SHARD_SIZE, Plan
from ..datasets import Source, open_dataset, photo_notices
from ..datasets.stored_photos import resolved, root_name
from ..display import counted, show
from ..executors.base import Event, Started
from ..executors.devices import usable_devices
from ..io.yaml_files import Override
from ..recipe import Recipe
from ..records import LocalPaths
from ..store import Place
from ..weights.rehearsal import few_scenes, rehearsal_settings
from .calibration import calibrate
from .cost_model import Estimate, estimate
from .machines import measured_here
from .options import Flags, resolve, shipped_recipe
from .planner import Content, sized_plan
from .purpose import Purpose, announce, next_command, require_means, stores
from .run import RunOptions, limited, precompute
from .run_report import PrecomputeReport
from .toy_guard import require_real_models

log = logging.getLogger(__name__)

__all__ = [
    "DataPlaces",
    "Opened",
    "Request",
    "dry_run",
    "launch",
    "notices",
    "open_request",
    "price",
    "read_places",
    "recipe_of",
]

SCENES = Path("data/scenes")
SCENE_COUNT = 200
LARGE = 24_000_000  # pixels: 35 smooth outlines take 235 kB there, of the 262 kB of a row
ANSWER_S = 15.0  # until measuring ends, from the opening of the data; the rest of 20 s is imports
LEAST_S = 4.0  # of measuring, however long the data took to open
MEASURE_S = 12.0  # of a dry run, which is to answer within 20 s, imports and all


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options of `svp precompute`; None means not given.

    dataset    path, or names of REFER sets under `root`; None: the photographs of `images`, or the
               generated scenes
    size       None: tiny, for generated scenes; any other data is then refused
    purpose    None: train where the data has expressions, else look
    projector  whose inputs a cache for training holds
    """

    dataset: str | None
    split: str | None
    out: Place | None
    images: Path | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    exclude_eval_images: bool = False
    size: str | None = None
    recipe_file: Path | None = None
    flags: Flags = field(default_factory=Flags)
    overrides: tuple[str | Override, ...] = ()
    run: RunOptions = field(default_factory=RunOptions)
    purpose: Purpose | None = None
    projector: str = "svp"
    quiet: bool = False


@dataclass(frozen=True)
class Opened:
    """A source made ready, with the name of the cache and what the cache will say it is made from.

    began  when its opening began, of `time.monotonic`
    """

    source: Source
    out: Place
    places: DataPlaces
    began: float = field(default_factory=time.monotonic)


def open_request(request: Request) -> Opened:
    """Find the dataset and name the cache. Raises MissingError, DataError, ConfigError."""
    began = time.monotonic()
    dataset, images, alone = request.dataset, request.images, False
    if dataset is None and images is not None:  # they are the data set
        dataset, images, alone = root_name(images), None, True

    # Without a data set the scenes stand in, drawn once and found again by the next run.
    if dataset is None:
        from ..datasets.scenes import write_scenes

        dataset = str(write_scenes(SCENES, images=few_scenes(SCENE_COUNT), seed=0))
    source = open_dataset(
        dataset,
        images=images,
        alone=alone,
        limit=request.run.limit,
        split=request.split,
        root=request.root,
        split_by=request.split_by,
        allow_google=request.allow_google,
        allow_counts=request.allow_counts,
        allow_empty=request.allow_empty,
        max_failures=request.run.max_failures,
        exclude_eval_images=request.exclude_eval_images,
    )
    name = Path(dataset).name or "images"
    out = request.out or Path("caches") / f"{name}-{request.split or 'all'}"
    return Opened(source, out, _places(request, dataset, source), began)


def recipe_of(request: Request, source: Source) -> tuple[Recipe, LocalPaths]:
    """Recipe of a request on this data, and the local paths.

    Raises what `resolve` raises; ConfigError for the tiny models on data that is not generated.
    """
    purpose = request.purpose or ("train" if source.sentences else "look")
    recipe, where = resolve(
        shipped_recipe(request.size, source.worlds), request.recipe_file, request.flags, request.overrides, source.image_root,
        stores(purpose, request.projector),
    )  # fmt: skip
    require_means(recipe, request.projector)
    named = show(request.dataset, 300) if request.dataset else source.name
    require_real_models(named, generated=source.generated, size=request.size, precompute=recipe)
    return recipe, where


def notices(request: Request, opened: Opened) -> list[str]:
    """Notices printed before a run: about the data, and the uses of the cache.

    Raises as `recipe_of`.
    """
    source = opened.source
    recipe, _ = recipe_of(request, source)
    lines = [*source.notices, *photo_notices(source)]
    if not source.sentences:
        lines.append(
            f"{source.name}: photographs without expressions: there is nothing to train on"
            + ("" if request.purpose == "train" else ", so this is --for look")
        )
    return [*lines, *_about_large(source), *announce(recipe),
            *_idle(request, len(source.images)), *_shared(request)]  # fmt: skip


def _idle(request: Request, images: int) -> list[str]:
    """That some workers will have nothing to do, if so: a shard is one worker's."""
    options = request.run
    if request.run.executor != "local" or not options.workers:
        return []
    shards = -(-min(images, request.run.limit or images) // SHARD_SIZE)
    if shards >= options.workers:
        return []
    line = (
        f"{counted(images, 'image', 'are')} {counted(shards, 'shard')} of {SHARD_SIZE}, and a "
        "shard is one worker's: "
    )
    return [line + f"{shards:,} of {counted(options.workers, 'worker')} will have work"]


def _shared(request: Request) -> list[str]:
    """That all workers will be on one GPU, if it was named: they load the models once each."""
    options = request.run
    workers = options.workers or 1
    if ":" not in options.device or workers < 2:
        return []
    line = (
        f"{counted(workers, 'worker', 'share')} one GPU, {options.device}: each loads all "
        "models into its "
    )
    return [line + "memory; --device cuda spreads them over all GPUs, one worker is --workers 1"]


def _about_large(source: Source) -> list[str]:
    large = [record for record in source.images if record.height * record.width > LARGE]
    if not large:
        return []
    line = (
        f"{counted(len(large), 'photograph', 'have')} more than {LARGE / 1e6:.0f} megapixels, the "
        f"first {show(large[0].path, 100)}: outlines of many superpixels may need more than the "
        f"{RLE_BYTES:,} bytes of a row; such an image goes to quarantine (rle_overflow): "
        "fewer superpixels (--max-superpixels) or a smaller copy fit"
    )
    return [line]


def launch(request: Request, opened: Opened) -> PrecomputeReport:
    """Make or finish the cache; raises what `precompute` raises."""
    source = opened.source
    recipe, where = recipe_of(request, source)

    def on_event(event: Event) -> None:
        if isinstance(event, Started):  # the cache is this run's by now: a stopped run says it too
            write_places(opened.out, opened.places)

    report = precompute(
        _content(source), recipe, where, opened.out, request.run,
        on_event=on_event, quiet=request.quiet,
    )  # fmt: skip
    write_places(opened.out, opened.places)
    if not report.complete or report.failed:
        return report
    return replace(report, next=_next(request, opened, recipe))


def _next(request: Request, opened: Opened, recipe: Recipe) -> str:
    """The command that uses the finished cache."""
    unread = Flags(sam_weights="random", encoder_weights="random", second_weights="random")
    name = shipped_recipe(request.size, opened.source.worlds)
    usual, _ = resolve(name, None, unread, (), Path())
    return next_command(
        recipe, opened.source.split or "", opened.out,
        size=request.size, projector=request.projector, usual=usual.features,
    )  # fmt: skip


def dry_run(request: Request, opened: Opened) -> Estimate:
    """Estimate the cost of the run on this machine: computes a few images to measure.

    Measuring takes `MEASURE_S` at most, however slow the machine is, and less where opening the
    data took long; its progress is logged.
    """
    source, options = opened.source, request.run
    recipe, where = recipe_of(request, source)
    content = limited(_content(source), request.run.limit)
    plan = sized_plan(recipe, content.split, content.digests)
    workers = len(usable_devices(options))
    left = ANSWER_S - (time.monotonic() - opened.began)
    bound = min(MEASURE_S, max(LEAST_S, left))
    measured = calibrate(content, recipe, where, options, workers=options.workers, bound_s=bound)
    if measured is None and content.images:
        log.info(f"not one image was done in {bound:.0f} s: the price is computed instead")
        here = measured_here(options.device, options.threads)
        return estimate(plan, len(content.images), device=here, workers=workers)
    return estimate(plan, len(content.images), calibration=measured, workers=workers)


def price(request: Request, device: str, images: int) -> Estimate:
    """The price of `images` images on a machine that is not here; needs no weights and no data.

    device  a key of `cost.DEVICES`
    """
    return estimate(priced_plan(request), images, device=device, workers=request.run.workers or 1)


def priced_plan(request: Request) -> Plan:
    """The plan of a request without its images; needs no weights and no data."""
    # The weights' values change no cost: random ones stand in for missing files.
    flags = replace(
        request.flags, sam_weights="random", encoder_weights="random", second_weights="random"
    )
    recipe, _ = resolve(
        request.size, request.recipe_file, flags, request.overrides, request.images or Path(),
        stores(request.purpose or "train", request.projector),
    )  # fmt: skip
    require_means(recipe, request.projector)
    return sized_plan(recipe)


def _places(request: Request, dataset: str, source: Source) -> DataPlaces:
    where, root = absolute_data(dataset, request.root)
    return DataPlaces(
        dataset=where,
        images=resolved(source.image_root),
        split=request.split,
        root=root,
        split_by=request.split_by,
        allow_google=request.allow_google,
        allow_counts=request.allow_counts,
        allow_empty=request.allow_empty,
        exclude_eval_images=request.exclude_eval_images,
        generated=source.generated,
        limit=request.run.limit,
        rehearsal=rehearsal_settings() is not None,
        size=request.size,
        command=_words(request.run.hint),
    )


def _words(hint: str) -> tuple[str, ...]:
    """Arguments of the `svp precompute` command line; none if another command started the run."""
    words = shlex.split(hint)
    name, words = words[:1], words[1:]
    front: list[str] = []  # --plugin FILE may stand before the command's name
    while words[:1] and words[0].startswith("--plugin"):
        count = 1 if "=" in words[0] else 2
        front, words = [*front, *words[:count]], words[count:]
    return (*words[1:], *front) if [*name, *words[:1]] == ["svp", "precompute"] else ()


def _content(source: Source) -> Content:
    return Content(source.images, source.split or "", source.sha256, source.listed)
