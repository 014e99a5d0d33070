"""`svp reproduce`: run what is missing, row by row, and write the table after every row."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.display import duration, show
from ...pipeline.errors import ConfigError, MissingError, MissingPackageError
from ...pipeline.io.atomic import check_writable, write_file
from ..evaluation.paper_numbers import PROTOCOL
from . import collect
from .caches import Caches
from .collect import Gathered
from .experiment import Row
from .paper_tables import experiment
from .report import claims_of, lines_of, markdown, summary, write_page
from .request import Ask, Data, data_of, make_scenes
from .results import Bench, TableResult, read_table, write_table
from .trial_folder import place, spent
from .trials import read_cell, run_cell


@dataclass(frozen=True)
class TableReport:
    """A table as it stands, the files it was written to, and the seconds of all tables together."""

    result: TableResult
    files: tuple[Path, ...]
    spent: float

    exit_code = 0

    def lines(self) -> list[str]:
        """For people."""
        result = self.result
        head = f"{result.table} ({result.size}): {result.title}, {result.metric} in percent"
        found = [f"{head}, protocol {result.protocol}"]
        for line in lines_of(result):
            ours = f"{line.ours} ({line.interval or '-'})" if line.ours else "not run"
            why = f"  {line.not_run}" if line.not_run else ""
            parts = [line.seeds, f"{line.tokens} tokens" if line.tokens else "", line.parameters]
            rest = ", ".join(part for part in parts if part)
            paper = f"paper ({PROTOCOL}) {line.paper or '-':>5}"
            found.append(f"{line.name:<36} {ours:>22}  {paper}  {rest}{why}")
        for ordering, paper, ours, verdict in claims_of(result):
            found.append(f"{ordering}: paper {paper}, ours {ours}: {verdict}")
        found += [*summary(result), f"all tables so far: {duration(self.spent)}"]
        return [*found, *(f"wrote {path}" for path in self.files)]

    def to_json(self) -> dict[str, object]:
        """For programs."""
        files = [str(path) for path in self.files]
        return self.result.model_dump(mode="json") | {"files": files, "all_tables": self.spent}


def reproduce(ask: Ask) -> TableReport:
    """The table, with everything that is missing run first.

    Rows that cannot be run say why; a package that is not installed costs its row only. Raises
    Interrupted (the same command goes on), ConfigError (no such table or row), and what caches,
    training and evaluation raise.
    """
    for folder in (ask.out, ask.runs, ask.caches):
        check_writable(folder / "new")
    table, data = experiment(ask.table, ask.size), data_of(ask)
    chosen = [table.row(name) for name in ask.rows] or [r for r in table.rows if not r.not_run]
    if ask.size == "tiny":
        make_scenes()
    caches = Caches(ask, data)
    known = Gathered(ask, data, table, bench=_earlier_bench(ask))
    for row in table.rows:
        if not row.not_run:
            _look(ask, data, row, caches, known)
    for row in chosen:
        if row.not_run:
            ask.say(f"{row.name}: not run: {row.not_run}")
            continue
        try:
            cells = [run_cell(ask, data, row, seed, caches) for seed in row.seeds(ask.seeds)]
        except MissingPackageError as error:
            known.reasons[row.name] = show(str(error), 300)
            ask.say(f"{row.name}: not run: {error}")
            continue
        known.add(row, cells, caches.of(row))
        write(ask, known.result())
    if table.bench and known.bench is None and not ask.rows:
        known.bench = collect.for_size(ask.size, ask.device, ask.say)
    result = known.result()
    return TableReport(result, write(ask, result), everything(ask))


def write(ask: Ask, result: TableResult) -> tuple[Path, ...]:
    """JSON, Markdown and page of a table; returns their paths."""
    path = result_path(ask)
    write_table(path, result)
    text = path.with_suffix(".md")
    write_file(text, markdown(result).encode(), label="table")
    return path, text, write_page(result, path.with_suffix(""))


def result_path(ask: Ask) -> Path:
    """Where the table goes; one of another recipe or protocol gets a name of its own."""
    changed = json.dumps(ask.changes).encode()
    mark = f"-{hashlib.sha256(changed).hexdigest()[:8]}" if ask.changes else ""
    asked = f"-{ask.protocol}" if ask.protocol != "full" else ""
    return ask.out / f"{ask.table}-{ask.size}{asked}{mark}.json"


def everything(ask: Ask) -> float:
    """Seconds of all caches and runs in the folders of `ask`, each counted once."""
    notes = [*ask.runs.glob("*/*.spent.json"), *ask.caches.glob("*.spent.json")]
    return sum(spent(note) for note in notes)


def _look(ask: Ask, data: Data, row: Row, caches: Caches, known: Gathered) -> None:
    """Take what is finished of a row, so that no table that is written forgets it.

    A row whose cache or weights cannot be looked up now has nothing finished.
    """
    try:
        cache = caches.path(row, data.dataset, "train")
        places = [place(ask, row, seed, cache) for seed in row.seeds(ask.seeds)]
    except (ConfigError, MissingError, MissingPackageError):
        return
    found = [(cell, at) for at in places if (cell := read_cell(at, ask.protocol)) is not None]
    known.add(row, found, caches.of(row) if found else set())


def _earlier_bench(ask: Ask) -> Bench | None:
    path = result_path(ask)
    return read_table(path).bench if path.is_file() else None
