"""`svp reproduce`: run the missing trials and write the table after each."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ...model.pretrained.config import is_export
from ...pipeline.display import Report, duration, show
from ...pipeline.errors import ConfigError, MissingError, MissingPackageError
from ...pipeline.io.atomic import check_writable, write_file
from ..cli_defaults import WORLD2
from ..evaluation.paper_numbers import PROTOCOL
from ..runs.export import ExportRequest, export_command
from ..runs.inputs import DataRequest, TrainRequest
from ..runs.train import train_command
from . import collect
from .caches import Caches
from .collect import Gathered
from .comparison.curve_plot import plot
from .experiment import Row
from .paper_tables import experiment
from .report import claim_rows, curve_rows, markdown, summary, table_rows, write_page
from .request import Data, ReproduceRequest, data_of, make_scenes, scenes_of
from .results import TableResult, read_table, write_table
from .trial_folder import at_work, elapsed, place, timed
from .trials import read_trial, run_trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableReport(Report):
    """Current state of a table, its files, and the seconds of all tables together."""

    result: TableResult
    files: tuple[Path, ...]
    elapsed: float

    def lines(self) -> list[str]:
        result = self.result
        head = f"{result.table} ({result.size}): {result.title}, {result.metric} in percent"
        found = [f"{head}, protocol {result.protocol}"]
        for line in table_rows(result):
            ours = f"{line.ours} ({line.interval or '-'})" if line.ours else "not run"
            why = f"  {line.not_run}" if line.not_run else ""
            parts = [line.seeds, f"{line.tokens} tokens" if line.tokens else "", line.parameters]
            rest = ", ".join(part for part in parts if part)
            paper = f"paper ({PROTOCOL}) {line.paper or '-':>5}"
            found.append(f"{line.name:<36} {ours:>22}  {paper}  {rest}{why}")
        for ordering, paper, ours, verdict in claim_rows(result):
            found.append(f"{ordering}: paper {paper}, ours {ours}: {verdict}")
        found += [*summary(result), f"all tables so far: {duration(self.elapsed)}"]
        for name, area, interval, more, told in curve_rows(result):
            found.append(
                f"AUBC {name:<24} {area:>6} ({interval})  ours minus it {more or '-'} {told}"
            )
        return [*found, *(f"wrote {path}" for path in self.files)]

    def to_json(self) -> dict[str, object]:
        files = [str(path) for path in self.files]
        return self.result.model_dump(mode="json") | {"files": files, "all_tables": self.elapsed}


def reproduce(request: ReproduceRequest) -> TableReport:
    """The table, with everything that is missing run first.

    Rows that cannot be run say why; a package that is not installed costs its row only. Raises
    Interrupted (the same command resumes), ConfigError (no such table or row), and what caches,
    training and evaluation raise.
    """
    # A table takes hours: that its places can be written is tried at once.
    for folder in (request.out, request.runs, request.caches):
        check_writable(folder)
    table, data = experiment(request.table, request.size, request.projectors), data_of(request)
    chosen = [table.row(name) for name in request.rows] or [r for r in table.rows if not r.not_run]
    if request.generated:
        make_scenes(request)
    if request.size == WORLD2 and request.init is None:
        request = replace(request, init=str(align(request)))

    # What is finished of every row is read first, so that no table that is written forgets it.
    caches, path = Caches(request, data), result_path(request)
    bench = read_table(path).bench if path.is_file() else None
    known = Gathered(request, data, table, bench=bench)
    for row in table.rows:
        if not row.not_run:
            _look(request, data, row, caches, known)

    # The table is written after every row: an interruption loses no finished one.
    for row in chosen:
        if row.not_run:
            log.info(f"{row.name}: not run: {row.not_run}")
            continue
        try:
            cells = [
                run_trial(request, data, row, seed, caches) for seed in row.seeds(request.seeds)
            ]
        except MissingPackageError as error:
            known.reasons[row.name] = show(str(error), 300)
            log.info(f"{row.name}: not run: {error}")
            continue
        known.add(row, cells, caches.of(row))
        write(request, known.result())
    if table.bench and known.bench is None and not request.rows:
        known.bench = collect.for_size(request.size, request.device)
    result = known.result()
    return TableReport(result, write(request, result), everything(request))


def align(request: ReproduceRequest) -> Path:
    """The export that every row on world 2 starts from: an alignment by captions, made once.

    No superpixel and no code of a place takes part: a plain MLP on all patches, texts about whole
    images. Raises what caches, training and export raise.
    """
    out = request.aligned
    if is_export(out):
        return out
    data, runs = data_of(request), request.runs / "align-world2"
    cache = Caches(request, data).get(Row("alignment"), data.dataset, "train")
    captions = DataRequest(dataset=str(scenes_of(request) / "captions.jsonl"))
    with at_work(runs), timed(runs / "train.spent.json"):
        log.info(f"alignment: {runs}")
        asked = TrainRequest(
            caches=(cache,), data=captions, size="align-world2", runs=runs, resume="auto",
            device=request.device, hint=request.hint,
        )  # fmt: skip
        export_command(ExportRequest(out=out, checkpoint=train_command(asked).folder))
    return out


def write(request: ReproduceRequest, result: TableResult) -> tuple[Path, ...]:
    """JSON, Markdown and page of a table, and the plot of its curves; returns their paths."""
    path = result_path(request)
    write_table(path, result)
    text = path.with_suffix(".md")
    write_file(text, markdown(result, path.with_suffix(".svg").name).encode(), label="table")
    page = write_page(result, path.with_suffix(""))
    if not result.curves:
        return path, text, page
    figure = path.with_suffix(".svg")
    write_file(figure, plot(result).encode(), label="table")
    return path, text, page, figure


def result_path(request: ReproduceRequest) -> Path:
    """Path of the table; one of another recipe or protocol gets its own name."""
    changed = json.dumps(request.changes).encode()
    mark = f"-{hashlib.sha256(changed).hexdigest()[:8]}" if request.changes else ""
    asked = f"-{request.protocol}" if request.protocol != "full" else ""
    return request.out / f"{request.table}-{request.size}{asked}{mark}.json"


def everything(request: ReproduceRequest) -> float:
    """Seconds of all caches and runs in the folders of `request`, each counted once."""
    notes = [*request.runs.glob("*/*.spent.json"), *request.caches.glob("*.spent.json")]
    return sum(elapsed(note) for note in notes)


def _look(request: ReproduceRequest, data: Data, row: Row, caches: Caches, known: Gathered) -> None:
    """Take what is finished of a row: nothing where its cache or weights cannot be looked up now."""
    try:
        cache = caches.path(row, data.dataset, "train")
        places = [place(request, row, seed, cache) for seed in row.seeds(request.seeds)]
    except (ConfigError, MissingError, MissingPackageError):
        return
    found = [(cell, at) for at in places if (cell := read_trial(at, request.protocol)) is not None]
    known.add(row, found, caches.of(row) if found else set())
