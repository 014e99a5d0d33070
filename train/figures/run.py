"""`svp figures RUN`: every figure a run allows, as PNG files in a page."""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...pipeline.browse.page_kit import ASSETS, check_replaceable, write_page
from ...pipeline.cache.plan import chosen_view
from ...pipeline.cache.reader import CacheReader
from ...pipeline.display import Report, shorten
from ...pipeline.executors import ExecutorOptions
from ...pipeline.executors.devices import usable_devices
from ...pipeline.process import pick_device
from ...pipeline.store import Place
from ..evaluation.load_trained import (
    data_of_run,
    find_trained,
    open_trained,
    require_fit,
)
from ..evaluation.results import Results, read_results
from ..options import TrainFlags
from ..recipe import CHECKPOINTS
from ..runs.eval_caches import data_for, default_split
from ..runs.evaluate import EvalRequest, eval_command, free_name
from ..runs.inputs import DataRequest
from ..runs.newest_cache import find_cache
from ..trainer.checkpoint import Checkpoint
from ..trainer.remote_run import RemoteRun, checkpoint_at, runs_at
from ..trainer.run_status import newest_run
from .against import against, open_other
from .attention_maps import attention_maps
from .canvas import Picture, numbered
from .inputs import Material, photos_of
from .latency import latency, read_bars
from .projector_time import projector_time
from .qualitative import failures, good, small_targets
from .superpixel_fit import fit
from .superpixel_sources import sources

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
FIGURES = Path("figures")
EVALUATED = 40  # images, where the run has no result file yet


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """Options of `svp figures`.

    run      run or checkpoint, by folder or address
    results  result file; None: the newest of the run, else some images are evaluated first
    cache    that the results were made with; None: found by its digest
    beside   other caches of the same images, for the picture of sources
    against  other runs, without SSPE or of another encoder, for the pictures of both answers
    bench    output of `svp bench infer --json`, for the picture of times
    """

    run: Place
    results: Path | None = None
    cache: Place | None = None
    beside: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()
    bench: Path | None = None
    data: DataRequest = field(default_factory=DataRequest)
    flags: TrainFlags = field(default_factory=TrainFlags)
    device: str = "auto"
    out: Path | None = None


@dataclass(frozen=True)
class FiguresReport(Report):
    """The page, what was drawn and what was not."""

    page: Path
    pictures: tuple[Picture, ...]

    def lines(self) -> list[str]:
        lines = [
            f"{picture.title} ({picture.paper}): {'drawn' if picture.png else picture.text}"
            for picture in self.pictures
        ]
        return [*lines, f"page: {self.page.resolve().as_uri()}"]

    def to_json(self) -> dict[str, object]:
        drawn = {picture.name: picture.png is not None for picture in self.pictures}
        return {"page": str(self.page), "drawn": drawn}


def figures_command(request: FiguresRequest) -> FiguresReport:
    """Draw the figures and write the page.

    Raises MissingError (run, cache, bench file), PlanMismatchError (cache and model do not belong
    together), ConfigError (device, runs that nothing compares), DataError, WeightsError,
    MissingPackageError (matplotlib).
    """
    run = run_of(request.run)
    out = request.out or (
        _folder(run) / "figures" if isinstance(request.run, Path) else FIGURES / _folder(run).name
    )
    check_replaceable(out)
    device = pick_device(request.device)
    usable_devices(ExecutorOptions(device=device))  # refuses what is not there
    bars = None if request.bench is None else read_bars(request.bench)
    beside = [CacheReader(path) for path in request.beside]
    made = _material(request, run)
    others = [open_other(path, made.trained.recipe, made.results) for path in request.against]
    pictures = [
        attention_maps(made), good(made), small_targets(made), failures(made), fit(made),
        sources(made, beside), *numbered([p for one in others for p in against(made, one)]),
        projector_time(made, device),
    ]  # fmt: skip
    if bars is not None:
        pictures.append(latency(bars))

    def fill(folder: Path) -> dict[str, object]:
        for picture in pictures:
            if picture.png is not None:
                (folder / ASSETS / f"{picture.name}.png").write_bytes(picture.png)
        return _values(made, pictures)

    return FiguresReport(write_page(out, HERE / "figures.html.j2", fill), tuple(pictures))


def _material(request: FiguresRequest, run: Path) -> Material:
    results = _results(request, run)
    found = find_trained(run, Path())
    known = data_of_run(found)
    cache = request.cache or find_cache(results.header.digests["cache 0"], known)
    reader = CacheReader(cache, view=chosen_view(cache, partial(require_fit, found)))
    trained = open_trained(found, reader.plan, request.flags)
    photos = photos_of(cache, request.data.images)
    data = data_for(request.data, results.header.splits[0].split, [reader], known)
    return Material(trained, results, reader, photos, data)


def _results(request: FiguresRequest, run: Path) -> Results:
    """The named file, the newest of the run, or a new one of some images."""
    if request.results is not None:
        return read_results(request.results)
    folder = _folder(run)
    known = [*(folder / "eval").glob("*.jsonl"), *folder.parent.glob("*.jsonl")]
    if known:
        return read_results(max(known, key=lambda path: path.stat().st_mtime_ns))
    caches = (request.cache,) if request.cache else ()
    asked = EvalRequest(
        data=request.data,
        split=default_split(caches, run, Path(), None),
        caches=caches,
        checkpoint=run,
        flags=request.flags,
        limit=EVALUATED,
        device=pick_device(request.device),
    )
    path = free_name(folder / "eval", asked)
    log.info(f"no result file yet: evaluating {EVALUATED} images")
    eval_command(asked)
    return read_results(path)


def run_of(path: Place) -> Path:
    """`path`, or the newest run in it if it is a folder of runs; the copy of what is at an address."""
    if not isinstance(path, Path):
        found = find_trained(None, path) if runs_at(path) else checkpoint_at(path)
        assert isinstance(found, Checkpoint) and found.home is not None
        RemoteRun(found.home).fetch_results()
        return found.path
    several = not (path / CHECKPOINTS).is_dir() and any(path.glob(f"*/{CHECKPOINTS}/step-*[0-9]"))
    return newest_run(path) if several else path


def _folder(run: Path) -> Path:
    """The folder of a run or of one of its checkpoints."""
    return run.parents[1] if run.name.startswith("step-") else run


def _values(made: Material, pictures: list[Picture]) -> dict[str, object]:
    recipe, header = made.trained.recipe, made.results.header
    return {
        "title": shorten(f"{recipe.model.projector.name}, recipe {recipe.name}", 80),
        "pictures": pictures,
        "facts": [
            (shorten(name), shorten(value)) for name, value in sorted(header.digests.items())
        ],
    }
