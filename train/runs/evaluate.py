"""`svp eval`: evaluate a model on splits; write result files, a summary and a page.

Several splits are evaluated one after another by one model, loaded once; everything that can be
refused is refused before the first one. Started with torchrun or `accelerate launch`, every process
takes its share; the first one writes.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.pretrained.config import is_export
from ...pipeline.browse.page_kit import check_replaceable
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.display import counted, show
from ...pipeline.errors import CacheError, ConfigError, SvpError
from ...pipeline.io.atomic import check_writable
from ...pipeline.process import pick_device
from ...pipeline.records import Expression
from ...pipeline.store import Place
from ..cli_defaults import DATA
from ..data.cache_fit import require_cache
from ..data.collate import CachedVisuals
from ..data.encoder_identity import features_of, require_same_features
from ..data.sam_identity import identity, require_same_sam
from ..distributed import agree, decided, first_then_others, flat, together
from ..evaluation.adjust import OPTIONS, adjusted
from ..evaluation.evaluate import Classes, Settings, evaluate
from ..evaluation.load_trained import (
    Found,
    budget_of,
    data_of_run,
    find_trained,
    newest_checkpoint,
    open_trained,
    require_budget_of,
    require_fit,
    require_token_answers,
    results_of,
)
from ..evaluation.page.page import write_page
from ..evaluation.page.shown_data import data_behind
from ..evaluation.parts import Parts
from ..evaluation.published_models import Published
from ..evaluation.results import Results, Row, collect, read_header, read_results, write_results
from ..evaluation.summary import EvalReport, joined, summarise
from ..evaluation.trained import Trained
from ..evaluation.unions import Clock
from ..evaluation.upper_bounds import Oracle, point_decoder
from ..evaluation.word_classes import known_classes, word_classes
from ..trainer.prepare import join_group, make_process_state
from ..trainer.remote_run import RemoteRun, file_at, folder_of
from ..trainer.resume import agreed_checkpoint, named_checkpoint
from ..trainer.run_data import RunData
from .eval_caches import data_for, live_photographs, open_caches
from .eval_request import EvalRequest
from .eval_split import Split, header_of, open_split
from .newest_cache import chosen_size, require_images

log = logging.getLogger(__name__)

__all__ = ["EvalRequest", "eval_command", "free_name", "report_command"]

if TYPE_CHECKING:
    from accelerate import PartialState


def eval_command(request: EvalRequest) -> EvalReport:
    """Evaluate, write the result files, summarise.

    Raises MissingError (cache, run, data), PlanMismatchError (cache and model do not belong
    together), CacheError, DataError, WeightsError, ConfigError.
    """
    # Processes on several machines may see other files: an error of one is raised in all of them.
    join_group(pick_device(request.device))
    with together("request"):
        # Places are tried before anything is read; that takes minutes with a large model.
        if request.out is None:
            check_writable(folder_of(request.runs))
        for split in request.splits:
            if (out := request.result_file(split)) is not None:
                check_writable(out, file=True)
        require_images(request.data)
        found = _same_model(request)

    # A published model without a cache reads photographs as it was shown them; a model of ours
    # reads the caches it was trained beside.
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(found, Published) and not request.caches:
            with together("photographs"):
                readers = live_photographs(request, found, Path(scratch))
            return _eval(replace(request, bounds=False), found, readers)
        with together("caches"):
            known = data_of_run(found)
            readers = open_caches(request, pick_device(request.device), found, known)
        return _eval(request, found, readers, known)


def _same_model(request: EvalRequest) -> Found:
    """The model of the request; a checkpoint is the one that the first process finds."""
    asked = request.checkpoint
    if request.published is not None or (isinstance(asked, Path) and is_export(asked)):
        return find_trained(asked, request.runs, request.published)
    found = agreed_checkpoint(
        lambda: named_checkpoint(asked) if asked is not None else newest_checkpoint(request.runs)
    )
    assert found is not None
    return found


def _eval(
    request: EvalRequest,
    found: Found,
    by_split: Mapping[str, tuple[RowReader, ...]],
    known: RunData | None = None,
) -> EvalReport:
    # Every cache must have been made as the model was trained, not only fit its shapes.
    first = by_split[request.splits[0]][0].plan
    with together("model"):
        if not request.decoder:
            require_token_answers(found, "--no-decoder")
        require_fit(found, first, by_split[request.splits[0]][0].path, decoder=request.decoder)
        budget = budget_of(found, request.budget)
        for reader in (one for readers in by_split.values() for one in readers):
            require_budget_of(found, budget, reader.plan, reader.path)
        trained = open_trained(found, first, request.flags, decoder=request.decoder).at(budget)
        trained = trained if request.decoder else trained.without_decoder()
        trained = adjusted(trained, request.overrides, first.grid)
        projector = trained.recipe.model.projector.name
        for seen in {r.plan.id: r.plan for readers in by_split.values() for r in readers}.values():
            require_cache(trained.recipe, seen, decoder=request.decoder)
            require_same_sam(identity(first), seen, f"cache {first.id[:12]}")
            wanted = features_of(first.recipe, projector)
            require_same_features(wanted, seen, projector, f"cache {first.id[:12]}")

    # All splits are opened and their places checked before the first one is computed.
    processes = make_process_state(trained.recipe, pick_device(request.device))
    trained = trained.to_answer(str(processes.device), request.lm_weights, request.reject_above)
    read = [reader.path for readers in by_split.values() for reader in readers]
    size = chosen_size(request.size, read, known)
    asked = {
        name: replace(request, data=data_for(request.data, name, by_split[name], known), size=size)
        for name in request.splits
    }
    splits = first_then_others(  # the first one hashes photographs for all
        "data",
        lambda: [open_split(asked[name], trained, name, by_split[name]) for name in request.splits],
    )
    for split in splits:
        told = header_of(request, trained, split).model_dump(mode="json")
        agree(f"split {split.name}", flat(told | {"batch": request.batch}, split.name))
    home, remote = results_of(found, request.runs)
    with together("results"):
        for split in splits:
            _check_output(request, trained, split)
    report = joined(
        [_evaluate(request, trained, split, processes, home, remote) for split in splits]
    )
    if request.tier is not None and processes.is_main_process:
        log.info(request.tier.line())
    return report


def _check_output(request: EvalRequest, trained: Trained, split: Split) -> None:
    """Refuse before the work what would be refused after it. Raises ConfigError."""
    out = request.result_file(split.name)
    if out is None:
        return
    check_replaceable(_page_folder(out))
    if out.exists() and read_header(out) != header_of(request, trained, split):
        raise ConfigError(
            f"{show(str(out), 300)} contains other results, which are never overwritten"
        )


def _page_folder(results: Path) -> Path:
    """Page folder of a result file: beside it, also if its name has no suffix."""
    return results.with_suffix("") if results.suffix else results.with_name(f"{results.name}-page")


def _evaluate(
    request: EvalRequest,
    trained: Trained,
    split: Split,
    processes: "PartialState",
    home: Path,
    remote: RemoteRun | None,
) -> EvalReport:
    device, main = str(processes.device), processes.is_main_process
    several = f"{split.name}: " if len(request.splits) > 1 else ""
    progress = _progress(len(split.units), processes.num_processes, several)
    with together("upper bounds"):
        settings = Settings(
            batch=request.batch,
            device=device,
            classes=_classes(split.data.dataset),
            judge=_judge(request, split.readers, device),
            progress=progress if main else lambda count: None,
            reject_above=trained.reject_above,
            ask=trained.budget.ask,
            unions=not trained.decoder,
            decoder=trained.decoder or (request.bounds and split.readers[0].plan.sam is not None),
            clock=None if trained.decoder else Clock(device),
        )

    # Batches that are done are kept beside the result file, by its header, until that is written.
    header, named = header_of(request, trained, split), request.result_file(split.name)
    done = decided("results", lambda: str(named) if named is not None and named.exists() else "")
    rows: list[Row] = []
    if not done:  # else an earlier run of this command came so far
        with together("parts"):
            folder = home if named is None else named.parent
            parts = Parts(folder, header, split.units, request.batch)
        settings = replace(settings, parts=parts)
        selector = trained.budget.selector(split.readers[0].plan.recipe.order)
        visuals = CachedVisuals(
            split.readers,
            trained.model.projector.needs,
            selector=selector,
            decoder=settings.decoder,
        )
        rows = evaluate(trained.model, split.units, trained.vocab, visuals, settings)

    # All go on to the next split only once the first process has the results of this one.
    with together("result file"):
        if not main:
            return EvalReport(header, [])
        taken = remote.results() if remote is not None and named is None else set()
        out = named or free_name(home, request, split.name, taken)
        results = read_results(out) if done else collect(header, rows)
        if not done:
            _save(out, results, parts)

    # The annotations are at hand here; a page made of the result file alone has none to show.
    masks = {(i.entry.dataset, e.sent_id): e.mask for i in split.items for e in i.expressions}
    try:
        page = write_page(
            results,
            _page_folder(out),
            images=split.source.image_root,
            targets=lambda row: masks.get((row.dataset, row.sent_id)),
        )
        seen = f"page: {page.resolve().as_uri()}"
    except (SvpError, OSError) as error:  # the figures are safe; a page can be made of them
        seen = f"no page: {error}: make it with `svp eval --from-results {out} --page FOLDER`"
    notes = [f"results: {out}", seen]
    if settings.clock is not None:
        point = settings.judge.point if isinstance(settings.judge, Oracle) else None
        notes.insert(0, settings.clock.line(point.embedding_seconds() if point else None))
    if remote is not None and named is None:
        notes.insert(1, f"sent to: {remote.send_results(out)}")
    return EvalReport(results.header, summarise(results), tuple(notes), (out,))


def _save(out: Path, results: Results, parts: Parts) -> None:
    """Write the result file; what was computed is kept until it is there. Raises CacheError."""
    try:
        write_results(out, results)
    except (CacheError, OSError) as error:
        raise CacheError(
            f"{error}; all {counted(len(results.rows), 'row', 'are')} kept in "
            f"{show(str(parts.folder), 300)}: the "
            "same command writes them without computing them again"
        ) from error
    parts.remove()


def report_command(path: Place, page: Path | None = None, images: Path | None = None) -> EvalReport:
    """`svp eval --from-results`: recompute the metrics of a result file, optionally a page.

    path    of the file, or its address
    images  folder or address of the photographs; None: as the run recorded them, where the file lies
            in its folder. Raises what `read_results` and `write_page` raise.
    """
    file = path if isinstance(path, Path) else file_at(path)
    results = read_results(file)
    notes: tuple[str, ...] = ()
    if page is not None:
        shown = data_behind(file, results.header.splits[0].split, images)
        made = write_page(results, page, images=shown.images, targets=shown.targets)
        notes = (f"page: {made.resolve().as_uri()}",)
    return EvalReport(results.header, summarise(results), notes)


def free_name(
    folder: Path, request: EvalRequest, split: str = "", taken: Collection[str] = ()
) -> Path:
    """A result file's name in `folder` that is not taken, there or at the address of the run.

    It says what of the answers was asked for otherwise: `svp compare` pairs the files of two runs by it.
    """
    words = [split or request.split, request.protocol, "generated" if request.generate else ""]
    words += [] if request.decoder else ["unions"]
    changes = [str(change).removeprefix(OPTIONS) for change in request.overrides]
    changes += [request.budget or "", request.lm_weights or ""]
    if request.reject_above is not None:
        changes.append(f"reject {request.reject_above:g}")
    words += [re.sub("[^A-Za-z0-9.]+", "-", change) for change in changes]
    stem = "-".join(word for word in words if word)
    number = 1
    while (path := folder / f"{stem}-{number}.jsonl").exists() or path.name in taken:
        number += 1
    return path


def _classes(dataset: str | None) -> Classes:
    folder = Path(dataset) if dataset is not None else DATA
    known = known_classes(folder) or {}

    def classes(said: Expression) -> list[str]:
        return known[said.sent_id] if said.sent_id in known else word_classes(said.text)

    return classes


def _judge(request: EvalRequest, readers: Sequence[RowReader], device: str) -> Oracle | None:
    if not request.bounds:
        return None
    # The decoder with a click needs SAM: its file is named, or it is one that needs no file.
    plan = readers[0].plan
    here = plan.sam is not None and plan.recipe.superpixels.weights.kind != "sha256"
    needed = request.sam_weights is not None or here
    point = point_decoder(readers[0], request.sam_weights, device) if needed else None
    return Oracle(readers, point)


def _progress(units: int, ranks: int, split: str) -> Callable[[int], None]:
    """Tells about ten times how far this rank is."""
    total, done = max(1, units // ranks), 0

    def progress(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 10 * before // total != 10 * done // total:
            log.info(f"{split}evaluated {min(done, total):,} of {counted(total, 'dialogue')}")

    return progress
