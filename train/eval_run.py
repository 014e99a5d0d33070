"""`svp eval`: a trained model, a split, a protocol in; a result file, its summary and a page out.

Started with torchrun or `accelerate launch`, every process takes its share; the first one writes.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..pipeline.errors import ConfigError, MissingError
from ..pipeline.records import Expression
from ..pipeline.sources import Source
from ..pipeline.store.reader import CacheReader
from ..pipeline.text import show
from .defaults import DATA, cache_of
from .evaluation.evaluate import Classes, Settings, evaluate
from .evaluation.oracle import Oracle, point_decoder
from .evaluation.protocols import Example, Protocol, Unit, examples, plan
from .evaluation.results import Header, SplitSize, collect, read_results, write_results
from .evaluation.summary import EvalReport, summarise
from .evaluation.trained import Trained, find_trained, open_trained
from .feed.fill import SUPERPIXEL_ORDER, CachedVisuals
from .fit.runfolder import libraries
from .fit.stage import make_accelerator
from .opening import DataRequest, open_reader, pick_device, source_of
from .page.gallery import Targets
from .page.page import write_page
from .settings import TrainFlags
from .text.words import known_classes, word_classes


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What the user asked for.

    caches          of the split; none: the embedded default's
    checkpoint      run folder or one of its checkpoints; None: the newest run in `runs`
    flags           where weights lie that the run started from
    repeats         draws of protocol glamm
    shuffle_orders  protocol full again with so many other superpixel orders
    bounds          compute what the superpixels allow, and what the decoder does with a click
    live            encoders in the loop instead of the caches' rows
    out             result file; None: a new name in the run's `eval` folder; the page goes beside it
    """

    data: DataRequest = field(default_factory=DataRequest)
    split: str = "val"
    caches: tuple[Path, ...] = ()
    checkpoint: Path | None = None
    runs: Path = Path("runs")
    flags: TrainFlags = field(default_factory=TrainFlags)
    protocol: Protocol = "full"
    generate: bool = False
    seed: int = 0
    repeats: int = 1
    shuffle_orders: int = 0
    limit: int | None = None
    batch: int = 16
    bounds: bool = True
    live: bool = False
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    device: str = "auto"
    out: Path | None = None
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.repeats > 1 and self.protocol == "full":
            raise ConfigError("--repeats is for --protocol glamm: full has nothing random in it")
        if self.shuffle_orders and self.protocol == "glamm":
            raise ConfigError("--shuffle-orders is for --protocol full: glamm mixes two spreads")
        if min(self.repeats, self.batch) < 1 or self.shuffle_orders < 0:
            raise ConfigError("--repeats and --batch need >= 1, --shuffle-orders >= 0")


def eval_command(request: EvalRequest) -> EvalReport:
    """Evaluate, write the result file, summarise.

    Raises MissingError (cache, run, data), PlanMismatchError (cache and model do not belong
    together), CacheError, DataError, WeightsError, ConfigError.
    """
    checkpoint = find_trained(request.checkpoint, request.runs)
    readers = open_caches(request, pick_device(request.device))
    trained = open_trained(checkpoint, readers[0].plan, request.flags)
    accelerator = make_accelerator(trained.recipe, pick_device(request.device))
    device, main = str(accelerator.device), accelerator.is_main_process
    source = source_of(request.data, trained.recipe, request.split)
    items = examples(source, readers, request.limit)
    units = _units(request, items)
    trained.model.to(device)
    visuals = CachedVisuals(readers, trained.model.projector.needs)
    settings = Settings(
        batch=request.batch,
        generate=request.generate,
        device=device,
        classes=_classes(request.data.dataset),
        judge=_judge(request, readers, device),
        progress=_progress(len(units), accelerator.num_processes, request.say) if main else _quiet,
    )
    rows = evaluate(trained.model, units, trained.vocab, visuals, settings)
    results = collect(_header(request, trained, source, readers, items, units), rows)
    if not main:
        return EvalReport(results.header, [])
    out = request.out or free_name(checkpoint.path.parents[1] / "eval", request)
    write_results(out, results)
    page = write_page(
        results, out.with_suffix(""), images=source.image_root, targets=_targets(items)
    )
    notes = (f"results: {out}", f"page: {page.resolve().as_uri()}")
    return EvalReport(results.header, summarise(results), notes)


def report_command(path: Path, page: Path | None = None, images: Path | None = None) -> EvalReport:
    """`svp eval --from-results`: every figure again from a result file, and the page if asked for.

    images  folder of the photographs. Raises what `read_results` and `write_page` raise.
    """
    results = read_results(path)
    notes = (
        (f"page: {write_page(results, page, images=images).resolve().as_uri()}",) if page else ()
    )
    return EvalReport(results.header, summarise(results), notes)


def open_caches(request: EvalRequest, device: str) -> tuple[CacheReader, ...]:
    """The readers of a request, live or not. Raises MissingError, CacheError."""
    paths = request.caches or (cache_of(request.split),)
    for path in paths:
        if not path.is_dir():
            raise MissingError(
                f"{show(str(path), 300)}: no such cache: make it with `svp precompute --split "
                f"{request.split} --store-sam-embeddings`, or name one with --from-cache PATH"
            )
    return tuple(open_reader(path, request, device) for path in paths)


def free_name(folder: Path, request: EvalRequest) -> Path:
    """A result file's name in `folder` that is not taken."""
    words = [request.split, request.protocol, "generated" if request.generate else ""]
    stem = "-".join(word for word in words if word)
    number = 1
    while (path := folder / f"{stem}-{number}.jsonl").exists():
        number += 1
    return path


def commit() -> str:
    """The git commit of the code that runs, "" where the package is no checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _units(request: EvalRequest, items: Sequence[Example]) -> list[Unit]:
    return plan(
        items,
        request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        shuffle=request.shuffle_orders > 0,
    )


def _repeats(request: EvalRequest) -> int:
    return request.repeats + request.shuffle_orders


def _classes(dataset: str | None) -> Classes:
    folder = Path(dataset) if dataset is not None else DATA
    known = known_classes(folder) or {}

    def classes(said: Expression) -> list[str]:
        return known[said.sent_id] if said.sent_id in known else word_classes(said.text)

    return classes


def _targets(items: Sequence[Example]) -> Targets:
    known = {(i.entry.dataset, e.sent_id): e.mask for i in items for e in i.expressions}
    return lambda row: known.get((row.dataset, row.sent_id))


def _judge(request: EvalRequest, readers: Sequence[CacheReader], device: str) -> Oracle | None:
    if not request.bounds:
        return None
    needed = request.sam_weights is not None or _shipped(readers[0])
    point = point_decoder(readers[0], request.sam_weights, device) if needed else None
    return Oracle(readers, point)


def _shipped(reader: CacheReader) -> bool:
    """Whether SAM's weights are in the package (or need no file)."""
    weights = reader.plan.recipe.superpixels.weights
    return reader.plan.sam is not None and not weights.startswith("sha256:")


def _header(
    request: EvalRequest,
    trained: Trained,
    source: Source,
    readers: Sequence[CacheReader],
    items: Sequence[Example],
    units: Sequence[Unit],
) -> Header:
    shuffled = f", and {request.shuffle_orders} shuffled" if request.shuffle_orders else ""
    caches = {f"cache {n}": reader.plan.id for n, reader in enumerate(readers)}
    data = {f"data {name}": digest for name, digest in source.sha256.items()}
    return Header(
        svp=__version__,
        commit=commit(),
        protocol=request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        order=SUPERPIXEL_ORDER + shuffled,
        splits=_sizes(source, request.split, items, units),
        digests=trained.digests | caches | data,
        libraries=libraries(),
    )


def _sizes(
    source: Source, split: str, items: Sequence[Example], units: Sequence[Unit]
) -> list[SplitSize]:
    """What is evaluated of each data set, in one repeat."""
    split_by = {row.dataset: row.split_by for row in source.sentences}
    asked = [(u.example.entry.dataset, len(u.asked)) for u in units if u.repeat == 0]
    return [
        SplitSize(
            dataset=dataset,
            split_by=split_by[dataset],
            split=split,
            images=sum(item.entry.dataset == dataset for item in items),
            sentences=sum(count for name, count in asked if name == dataset),
        )
        for dataset in sorted({item.entry.dataset for item in items})
    ]


def _progress(units: int, ranks: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """Tells about ten times how far this rank is."""
    total, done = max(1, units // ranks), 0

    def progress(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 10 * before // total != 10 * done // total:
            say(f"evaluated {min(done, total):,} of {total:,} dialogues")

    return progress


def _quiet(count: int) -> None:
    pass
