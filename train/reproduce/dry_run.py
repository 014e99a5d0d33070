"""`svp reproduce --plan` and `--rehearse`, and the checks before a run starts.

A rehearsal runs a table's rows at the paper's size to their end. The stand-ins are those of `svp
rehearse`, in the folder `rehearsal` of the working folder, and so is everything that is made; the
rehearsal settings that shorten the recipes apply to the whole run.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from ...pipeline.cache.index import is_complete
from ...pipeline.datasets import open_dataset
from ...pipeline.display import Report, counted, duration
from ...pipeline.errors import ConfigError, SvpError, describe
from ...pipeline.precompute.options import resolve
from ...pipeline.weights.rehearsal import VARIABLE
from .. import cli_defaults
from ..cli_defaults import ALL
from ..evaluation.named_model import published_folder
from ..rehearse.run import stand_ins
from .caches import Caches
from .estimate import PricePlan, price_plan
from .experiment import Experiment, Row
from .paper_tables import experiment
from .request import Data, ReproduceRequest, data_of, scenes_of
from .run import TableReport, reproduce
from .trial_folder import place
from .trials import read_trial


@dataclass(frozen=True, slots=True)
class RowPlan:
    """One row: seeds that are done, seconds of one seed if any row has been measured.

    trained_by  an earlier row that trains the same model: this one only evaluates it
    """

    name: str
    not_run: str
    done: tuple[int, ...]
    todo: tuple[int, ...]
    caches: str
    seconds: float | None
    trained_by: str = ""


@dataclass(frozen=True)
class TinyPlan(Report):
    """Plan of a table on generated scenes."""

    table: str
    size: str
    rows: tuple[RowPlan, ...]

    @property
    def known(self) -> float | None:
        """Mean seconds of a finished cell of this table that trains, None if there is none."""
        return self._mean(trains=True)

    def _mean(self, *, trains: bool) -> float | None:
        found = [
            row.seconds
            for row in self.rows
            if row.seconds is not None and trains != bool(row.trained_by)
        ]
        return mean(found) if found else None

    def lines(self) -> list[str]:
        lines = [f"{self.table} at size {self.size}"]
        for row in self.rows:
            if row.not_run:
                lines.append(f"{row.name:<36} not run: {row.not_run}")
                continue
            done = f"{len(row.done):,} of {counted(len(row.done) + len(row.todo), 'seed')} done"
            done += f", the model of {row.trained_by}" if row.trained_by else ""
            each = f", {duration(row.seconds)} per seed" if row.seconds is not None else ""
            lines.append(f"{row.name:<36} {done}{each}; caches {row.caches}")
        runs = sum(len(row.todo) for row in self.rows if not row.trained_by)
        asked = sum(len(row.todo) for row in self.rows if row.trained_by)
        known, evaluation = self.known, self._mean(trains=False) or 0.0
        more = f" and {counted(asked, 'evaluation')} of their models" if asked else ""
        seconds = runs * (known or 0.0) + asked * evaluation
        cost = f"about {duration(seconds)}" if known is not None else "cost not measured yet"
        return [*lines, f"{counted(runs, 'run')}{more} to do, {cost}"]

    def to_json(self) -> dict[str, object]:
        rows = [asdict(row) for row in self.rows]
        return {"table": self.table, "rows": rows, "seconds_per_run": self.known}


def reproduce_or_plan(
    request: ReproduceRequest, *, plan_only: bool
) -> TableReport | TinyPlan | PricePlan:
    """Reproduce the table; or plan it, on request or if the paper's size cannot start."""
    if request.table == ALL and not plan_only:
        raise ConfigError(f"{ALL}: only with --plan; run the tables one by one, they share work")
    table, data = experiment(request.table, request.size, request.projectors), data_of(request)
    if not request.generated:
        missing = missing_for(request, data, table)
        if plan_only or missing:
            return price_plan(request, data, table, missing, asked=plan_only)
    elif plan_only:
        return tiny_plan(request, data, table)
    return reproduce(request)


def missing_for(request: ReproduceRequest, data: Data, table: Experiment) -> list[str]:
    """Files that the paper's size needs and this machine lacks, one per line."""
    lacks = []
    if request.root is None:
        lacks.append("the REFER sets: name their folder with --root (see docs/data.md)")
    else:
        try:
            for name in dict.fromkeys(column.dataset for column in data.columns):
                open_dataset(name, root=request.root, split="train")
        except SvpError as error:
            lacks.append(describe(error))
    if request.init is None and request.start is not None:
        lacks.append("the checkpoint all rows start from: --init GLaMM-GranD-Pretrained")
    chosen = [row for row in table.rows if not request.rows or row.name in request.rows]
    if any(row.untrained and not row.not_run for row in chosen):
        lacks += _published(request)
    for row in table.rows:
        if not row.not_run and (not request.rows or row.name in request.rows):
            lacks += _weights(request, row)
    return list(dict.fromkeys(lacks))


def tiny_plan(request: ReproduceRequest, data: Data, table: Experiment) -> TinyPlan:
    """Looks at what is there; makes and trains nothing."""
    rows = [table.row(name) for name in request.rows] or list(table.rows)
    caches = Caches(request, data)
    first: dict[object, str] = {}
    return TinyPlan(
        table.key,
        request.size,
        tuple(
            _row(request, data, row, caches, first.setdefault((row.train, row.cache), row.name))
            for row in rows
        ),
    )


def _row(
    request: ReproduceRequest, data: Data, row: Row, caches: Caches, trained_by: str
) -> RowPlan:
    """`trained_by`: the first row with the same training, which may be this one."""
    every = tuple(row.seeds(request.seeds))
    trained_by = trained_by if row.asked and trained_by != row.name else ""
    if row.not_run:
        return RowPlan(row.name, row.not_run, (), (), "", None)
    if not scenes_of(request).exists():
        there = "to be made, and the scenes first"
        return RowPlan(row.name, "", (), every, there, None, trained_by)
    cache = caches.path(row, data.dataset, "train")
    cells = {seed: read_trial(place(request, row, seed, cache), request.protocol) for seed in every}
    done = tuple(seed for seed, cell in cells.items() if cell is not None)
    parts = ("eval",) if trained_by else ("train", "eval")
    spent = [
        sum(cell.seconds[part] for part in parts) for cell in cells.values() if cell is not None
    ]
    return RowPlan(
        row.name, "", done, tuple(seed for seed in every if seed not in done),
        "there" if is_complete(cache) else "to be made",
        mean(spent) if spent else None, trained_by,
    )  # fmt: skip


def _weights(request: ReproduceRequest, row: Row) -> list[str]:
    """Missing weights of the frozen encoders of a row."""
    try:
        resolve(request.size, None, request.flags, row.cache, request.root or cli_defaults.DATA)
    except SvpError as error:
        return [describe(error)]
    return []


def _published(request: ReproduceRequest) -> list[str]:
    """Missing files of the published model; its weights are not read."""
    try:
        published_folder(request.published)
    except SvpError as error:
        return [describe(error)]
    return []


FOLDER = Path("rehearsal")
IN_A_SHELL = (VARIABLE, "HF_HUB_OFFLINE")
STAND_INS: Mapping[str, Any] = {
    "root": Path("refer_data"),
    "init": "GLaMM-GranD-Pretrained",
    "published": "GLaMM-RefSeg",
}


def rehearsed(options: Mapping[str, Any], *, plan_only: bool) -> TableReport | TinyPlan | PricePlan:
    """`reproduce_or_plan` with the options of the command line, on stand-ins. Raises ConfigError.

    The same command resumes a rehearsal that was stopped; in a new folder it starts again.
    """
    if options["size"] != "paper":
        raise ConfigError("--rehearse requires --size paper: the tiny models need no stand-ins")
    if given := [f"--{name}" for name in ("root", "init") if options[name] is not None]:
        raise ConfigError(f"--rehearse makes stand-ins for {' and '.join(given)}: leave it out")
    folder = FOLDER.resolve()
    folder.mkdir(exist_ok=True)
    chosen = {**options, **STAND_INS, "seeds": options["seeds"] or 1}
    if chosen["device"] == "auto":
        chosen["device"] = "cpu"
    env = stand_ins(folder, full=False)
    with _within(folder, env):
        found = reproduce_or_plan(ReproduceRequest(**chosen), plan_only=plan_only)
    if isinstance(found, PricePlan):
        # Shell lines that let the plan's commands find the stand-ins.
        exports = (f"export {n}={shlex.quote(env[n])}" for n in IN_A_SHELL if n in env)
        return replace(found, opening=(f"cd {shlex.quote(str(folder))}", *exports))
    return found


@contextmanager
def _within(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        with chdir(folder):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
