"""`svp eval`: a trained model, splits, a protocol in; a result file of each, a summary and a page out.

Several splits are evaluated one after another by one model, loaded once; everything that can be
refused is refused before the first one. Started with torchrun or `accelerate launch`, every process takes its share; the first one writes.
"""

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..pipeline.browse.static import check_replaceable
from ..pipeline.errors import CacheError, ConfigError, MissingError
from ..pipeline.records import Expression
from ..pipeline.run.planning import Content
from ..pipeline.sources import Source
from ..pipeline.sources.problems import merged
from ..pipeline.store.atomic import check_writable
from ..pipeline.store.reader import CacheReader
from ..pipeline.text import show
from .assemble import require_cache
from .decoder import identity, require_same_sam
from .defaults import DATA, cache_of
from .evaluation.evaluate import Classes, Settings, evaluate
from .evaluation.oracle import Oracle, point_decoder
from .evaluation.parts import Parts
from .evaluation.protocols import Example, Protocol, Unit, gather, plan, that_fit
from .evaluation.published import Published
from .evaluation.results import (
    Header,
    Results,
    SplitSize,
    collect,
    read_header,
    read_results,
    write_results,
)
from .evaluation.summary import EvalReport, joined, summarise
from .evaluation.trained import Found, Trained, find_trained, open_trained, results_of
from .evaluation.unseen import Encoders, live_readers
from .feed.fill import SUPERPIXEL_ORDER, CachedVisuals
from .feed.fitting import ANY, Room
from .feed.table_build import check_left_out
from .fit.runfolder import libraries
from .fit.stage import make_accelerator
from .found import newest_cache, over, recorded, require_images
from .opening import ALL, DataRequest, open_reader, pick_device, require_models, source_of
from .page.gallery import Targets
from .page.page import write_page
from .rundata import RunData, data_of_run, split_to_score
from .settings import TrainFlags
from .text.dialogues import build_dialogue
from .text.prompts import Turn
from .text.words import known_classes, word_classes

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What the user asked for.

    split           names of the splits, by commas: `val,testA,testB`; `all`: the whole data set
    data            without a dataset: what the caches say they were made from, else the run's own
    caches          of the splits, each taken for the split it records; none: those of the run's data
    checkpoint      run folder or one of its checkpoints; None: the newest run in `runs`
    published       a GLaMM or LISA folder, or hub:OWNER/NAME, asked as it is; without caches the
                    photographs are read live, `own_sam` with the folder's own SAM
    flags           where weights lie that the run started from
    repeats         draws of protocol glamm
    shuffle_orders  protocol full again with so many other superpixel orders
    bounds          compute what the superpixels allow, and what the decoder does with a click
    live            encoders in the loop instead of the caches' rows
    out             result file; with several splits `-SPLIT` is added to its name (`result_file`);
                    None: a new name in the run's `eval` folder; the page goes beside it
    size            "tiny": the tiny models may meet data that is not generated
    """

    data: DataRequest = field(default_factory=DataRequest)
    split: str = "val"
    caches: tuple[Path, ...] = ()
    checkpoint: Path | None = None
    published: str | None = None
    own_sam: bool = False
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
    size: str | None = None
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if not all(self.splits) or len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"--split {show(self.split)}: give names once each: val,testA,testB")
        if self.own_sam and (self.published is None or self.caches):
            raise ConfigError(
                "--own-sam is for --published without --from-cache: a cache holds its own"
            )
        if self.repeats > 1 and self.protocol == "full":
            raise ConfigError("--repeats is for --protocol glamm: full has nothing random in it")
        if self.shuffle_orders and self.protocol == "glamm":
            raise ConfigError("--shuffle-orders is for --protocol full: glamm mixes two spreads")
        if min(self.repeats, self.batch) < 1 or self.shuffle_orders < 0:
            raise ConfigError("--repeats and --batch need >= 1, --shuffle-orders >= 0")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(name.strip() for name in self.split.split(","))

    def result_file(self, split: str) -> Path | None:
        """Where the results of one of the splits go, if `out` says it.

        >>> EvalRequest(split="val,testA", out=Path("mine.jsonl")).result_file("testA").name
        'mine-testA.jsonl'
        """
        if self.out is None or len(self.splits) == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{split}{self.out.suffix or '.jsonl'}")


@dataclass(frozen=True)
class _Split:
    """One split, opened and joined with its caches."""

    name: str
    data: DataRequest
    source: Source
    readers: tuple[CacheReader, ...]
    items: list[Example]
    units: list[Unit]
    left_out: dict[str, int]


def eval_command(request: EvalRequest) -> EvalReport:
    """Evaluate, write the result files, summarise.

    Raises MissingError (cache, run, data), PlanMismatchError (cache and model do not belong
    together), CacheError, DataError, WeightsError, ConfigError.
    """
    check_writable(request.out or request.runs / "run")
    require_images(request.data)
    found = find_trained(request.checkpoint, request.runs, request.published)
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(found, Published) and not request.caches:
            readers = _live(request, found, Path(scratch))
            return _eval(replace(request, bounds=False), found, readers)
        known = data_of_run(found)
        readers = open_caches(request, pick_device(request.device), known)
        return _eval(request, found, readers, known)


def _live(
    request: EvalRequest, found: Published, scratch: Path
) -> dict[str, tuple[CacheReader, ...]]:
    """The photographs of each split, seen as a published model sees them."""
    device = pick_device(request.device)
    encoders = Encoders(
        device=device,
        own_sam=request.own_sam,
        sam=request.sam_weights,
        encoder=request.encoder_weights,
    )
    splits = {}
    for name in request.splits:
        source = source_of(request.data, None, name)
        splits[name] = (Content(source.images, name, source.sha256), source.image_root)
    return {
        name: (reader,) for name, reader in live_readers(found, splits, scratch, encoders).items()
    }


def _eval(
    request: EvalRequest,
    found: Found,
    by_split: Mapping[str, tuple[CacheReader, ...]],
    known: RunData | None = None,
) -> EvalReport:
    first = by_split[request.splits[0]][0].plan
    trained = open_trained(found, first, request.flags)
    for seen in {r.plan.id: r.plan for readers in by_split.values() for r in readers}.values():
        require_cache(trained.recipe, seen)
        require_same_sam(identity(first), seen, f"cache {first.id[:12]}")
    accelerator = make_accelerator(trained.recipe, pick_device(request.device))
    say = request.say if accelerator.is_main_process else _unheard
    asked = {
        name: replace(request, data=data_for(request.data, name, by_split[name], known))
        for name in request.splits
    }
    with accelerator.main_process_first():  # the first one hashes photographs for all
        splits = [
            _open_split(asked[name], trained, name, by_split[name], say) for name in request.splits
        ]
    trained.model.to(str(accelerator.device))
    home = results_of(found, request.runs)
    for split in splits:
        _check_output(request, trained, split)
    return joined([_evaluate(request, trained, split, accelerator, home) for split in splits])


def _check_output(request: EvalRequest, trained: Trained, split: _Split) -> None:
    """Refuse before the work what would be refused after it. Raises ConfigError."""
    out = request.result_file(split.name)
    if out is None:
        return
    check_replaceable(out.with_suffix(""))
    if out.exists() and read_header(out) != _header(request, trained, split):
        raise ConfigError(f"{show(str(out), 300)} holds other results: they are never overwritten")


def _open_split(
    request: EvalRequest,
    trained: Trained,
    name: str,
    readers: tuple[CacheReader, ...],
    say: Callable[[str], None],
) -> _Split:
    source = source_of(request.data, trained.recipe, name)
    require_models(trained.recipe, readers, source, request.size)
    allowed = request.data.max_failures
    found = gather(source, readers, request.limit, max_failures=allowed, say=say)
    room = Room(readers, trained.model.projector.num_tokens(readers[0].plan.grid))
    items, long = that_fit(found.items, trained.vocab, room)
    for line in long.faults().notices():
        say(line)
    asked = sum(len(item.expressions) for item in found.items)
    bad = merged((found.bad, long.settle(asked, None)))
    check_left_out(bad, len(found.quarantined), allowed)
    left_out = found.left_out | ({"too long": long.found} if long.found else {})
    units = _units(request, items, trained, room)
    return _Split(name, request.data, source, readers, items, units, left_out)


def data_for(
    asked: DataRequest, split: str, readers: Sequence[CacheReader], known: RunData | None
) -> DataRequest:
    """What was asked for, else what the caches were made from, else what the run read."""
    if asked.dataset is not None:
        return asked
    made = {recorded(reader.path) for reader in readers} - {None}
    if len(made) == 1 and (only := made.pop()) is not None:
        return over(only, asked)
    if known is not None:
        return over((known.of("" if split == ALL else split) or known.training).request, asked)
    return asked


def _evaluate(
    request: EvalRequest, trained: Trained, split: _Split, accelerator: "Accelerator", home: Path
) -> EvalReport:
    device, main = str(accelerator.device), accelerator.is_main_process
    several = f"{split.name}: " if len(request.splits) > 1 else ""
    progress = _progress(len(split.units), accelerator.num_processes, request.say, several)
    settings = Settings(
        batch=request.batch,
        generate=request.generate,
        device=device,
        classes=_classes(split.data.dataset),
        judge=_judge(request, split.readers, device),
        progress=progress if main else _quiet,
    )
    header, named = _header(request, trained, split), request.result_file(split.name)
    if named is not None and named.exists():  # an earlier run of this command came so far
        results, out = read_results(named), named
    else:
        folder = home if named is None else named.parent
        parts = Parts(folder, header, split.units, request.batch)
        settings = replace(settings, parts=parts)
        visuals = CachedVisuals(split.readers, trained.model.projector.needs)
        rows = evaluate(trained.model, split.units, trained.vocab, visuals, settings)
        results = collect(header, rows)
        if not main:
            return EvalReport(results.header, [])
        out = named or free_name(home, request, split.name)
        _save(out, results, parts)
    if not main:
        return EvalReport(results.header, [])
    try:
        page = write_page(
            results,
            out.with_suffix(""),
            images=split.source.image_root,
            targets=_targets(split.items),
        )
        seen = f"page: {page.resolve().as_uri()}"
    except (CacheError, OSError) as error:  # the figures are safe; a page can be made of them
        seen = f"no page: {error}: make it with `svp eval --from-results {out} --page FOLDER`"
    return EvalReport(results.header, summarise(results), (f"results: {out}", seen), (out,))


def _save(out: Path, results: Results, parts: Parts) -> None:
    """Write the result file; what was computed is kept until it is there. Raises CacheError."""
    try:
        write_results(out, results)
    except (CacheError, OSError) as error:
        raise CacheError(
            f"{error}; all {len(results.rows)} rows are kept in {show(str(parts.folder), 300)}: the "
            "same command writes them without computing them again"
        ) from error
    parts.remove()


def report_command(path: Path, page: Path | None = None, images: Path | None = None) -> EvalReport:
    """`svp eval --from-results`: every figure again from a result file, and the page if asked for.

    images  folder of the photographs. Raises what `read_results` and `write_page` raise.
    """
    results = read_results(path)
    notes = (
        (f"page: {write_page(results, page, images=images).resolve().as_uri()}",) if page else ()
    )
    return EvalReport(results.header, summarise(results), notes)


def default_split(
    caches: Sequence[Path], checkpoint: Path | None, runs: Path, published: str | None
) -> str:
    """The split that is evaluated where none is named: that of the caches, else the run's."""
    splits = {CacheReader(path).plan.split for path in caches}
    if len(splits) == 1:
        return splits.pop() or ALL
    return split_to_score(data_of_run(find_trained(checkpoint, runs, published))) or ALL


def _cache_for(split: str, request: EvalRequest, known: RunData | None) -> Path:
    """The run's own cache of a split, else the newest of its data, else the embedded default's."""
    mine = known.of("" if split == ALL else split) if known else None
    if mine and request.data.dataset is None and mine.caches and mine.caches[0].path.is_dir():
        return mine.caches[0].path
    dataset = request.data.dataset or (known.training.dataset if known else None)
    if dataset is not None:
        return newest_cache("" if split == ALL else split, request.say, dataset)
    return cache_of(split)


def open_caches(
    request: EvalRequest, device: str, known: RunData | None = None
) -> dict[str, tuple[CacheReader, ...]]:
    """The readers of each split, live or not. Raises MissingError, CacheError.

    A cache goes to the split its plan names; one without a split (of a plain folder, of a whole
    set) goes to every split. A single split takes all caches that are named for it.
    """
    paths = request.caches or tuple(_cache_for(split, request, known) for split in request.splits)
    names = ",".join(request.splits)
    for path in paths:
        if not path.is_dir():
            raise MissingError(
                f"{show(str(path), 300)}: no such cache: make it with `svp precompute --split "
                f"{request.splits[0]}`, or name one with --from-cache PATH"
            )
    readers = tuple(open_reader(path, request, device) for path in paths)
    if len(request.splits) == 1:
        return {request.splits[0]: readers}
    found = {
        split: tuple(reader for reader in readers if reader.plan.split in (split, ""))
        for split in request.splits
    }
    for split, own in found.items():
        if not own:
            have = ", ".join(f"{show(str(r.path), 200)} is of {r.plan.split}" for r in readers)
            raise MissingError(
                f"--split {names}: no cache of {split} is named ({have}): make it with `svp "
                f"precompute --split {split}`, and name it with --from-cache"
            )
    return found


def free_name(folder: Path, request: EvalRequest, split: str = "") -> Path:
    """A result file's name in `folder` that is not taken."""
    words = [split or request.split, request.protocol, "generated" if request.generate else ""]
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


def _units(
    request: EvalRequest, items: Sequence[Example], trained: Trained, room: Room
) -> list[Unit]:
    def fits(item: Example, turns: Sequence[Turn]) -> bool:
        ids = build_dialogue(trained.vocab, turns, limit=ANY).ids
        return len(ids) <= room.of(item.entry)

    return plan(
        items,
        request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        shuffle=request.shuffle_orders > 0,
        wording=trained.vocab.wording,
        fits=fits,
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


def _header(request: EvalRequest, trained: Trained, split: _Split) -> Header:
    shuffled = f", and {request.shuffle_orders} shuffled" if request.shuffle_orders else ""
    caches = {f"cache {n}": reader.plan.id for n, reader in enumerate(split.readers)}
    data = {f"data {name}": digest for name, digest in split.source.sha256.items()}
    return Header(
        svp=__version__,
        commit=commit(),
        protocol=request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        order=SUPERPIXEL_ORDER + shuffled,
        splits=_sizes(split.source, split.name, split.items, split.units),
        digests=trained.digests | caches | data,
        left_out=split.left_out,
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


def _progress(
    units: int, ranks: int, say: Callable[[str], None], split: str
) -> Callable[[int], None]:
    """Tells about ten times how far this rank is."""
    total, done = max(1, units // ranks), 0

    def progress(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 10 * before // total != 10 * done // total:
            say(f"{split}evaluated {min(done, total):,} of {total:,} dialogues")

    return progress


def _quiet(count: int) -> None:
    pass


def _unheard(line: str) -> None:
    pass
