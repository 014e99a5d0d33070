"""Run a trial (one row, one seed): training and evaluations, in a folder named by digests.

What is there is kept: a finished cell by its record, a finished evaluation by its result file, a
stopped run by its checkpoint. Nothing here is ever removed; to make a cell again, remove its folder.
"""

import importlib.resources
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Annotated

from pydantic import Field, ValidationError

from ...model.projectors import Projector
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.display import show
from ...pipeline.errors import DataError
from ...pipeline.io.atomic import write_file
from ...pipeline.io.json_files import JsonFile, canonical
from ...pipeline.superpixels.budget.selector import Budget, parse_budget, require_order
from ...pipeline.weights.load import load_state_dict
from ..data.cache_fit import outline_projector
from ..evaluation.protocols import Protocol
from ..evaluation.results import Results, read_results
from ..factory import language_of
from ..metrics import metrics
from ..options import TINY_MODEL, Places, resolve_train
from ..provenance import commit, libraries
from ..recipe import TrainRecipe
from ..runs.evaluate import EvalRequest, eval_command
from ..runs.inputs import DataRequest, TrainRequest, settled
from ..runs.train import train_command
from ..trainer.run_status import newest_run
from .caches import Caches
from .commands import eval_words, started, train_words
from .comparison.answer_time import answer_flops, answer_ms
from .experiment import Row
from .request import Column, Data, ReproduceRequest
from .trial_folder import Place, at_work, elapsed, place, timed

log = logging.getLogger(__name__)

Number = Annotated[float, Field(allow_inf_nan=False)]


class TrialScore(JsonFile):
    """One split: metrics as fractions, mean visual tokens per image, sentences and images."""

    metrics: dict[str, Number]
    tokens: Number
    images: int
    sentences: int


class Trial(JsonFile):
    """One row with one seed, finished.

    folder      name of its folder under the runs
    digests     recipe, checkpoint, and the caches by split
    parameters  of the projector; `warm` of them start from the shipped one (recipe.warm_projector)
    seconds     wall time of training and evaluation, all attempts together
    ms          of one answer from stored features, of a point of a curve and its first seed
    flops       of projector and language model for it, at the mean number of tokens
    """

    seed: int
    folder: str
    digests: dict[str, str]
    parameters: int
    warm: int
    scores: dict[str, TrialScore]
    seconds: dict[str, Number]
    commit: str
    libraries: dict[str, str]
    ms: Number | None = None
    flops: Number | None = None


def read_trial(at: Place, protocol: Protocol = "full") -> Trial | None:
    """The record of a finished cell, None if there is none. Raises DataError if it is damaged."""
    path = at.record(protocol)
    if not path.is_file():
        return None
    try:
        return Trial.model_validate_json(path.read_bytes())
    except ValidationError:
        where = show(str(path), 300)
        raise DataError(f"{where}: damaged: remove it; the trial is then collected again") from None


def run_trial(
    request: ReproduceRequest, data: Data, row: Row, seed: int, caches: Caches
) -> tuple[Trial, Place]:
    """The cell, made, finished or found. Raises what training and evaluation raise."""
    # Caches are made before the trial is looked up: their digests say whether it is still valid.
    cache = caches.path(row, data.dataset, "train")
    at = place(request, row, seed, cache)
    if not row.untrained:
        caches.get(row, data.dataset, "train")
    held = {column: caches.get(row, column.dataset, column.split) for column in data.columns}
    plans, recipe, places = {}, None, Places()
    if not row.untrained:
        recipe, places = resolve_train(request.size, None, at.flags, at.overrides)
        plans["train"] = _plan(cache, recipe.budget)
        recipe = settled(recipe, plans["train"].recipe.order)
    budget = parse_budget(row.budget or "auto")
    plans |= {column.label: _plan(path, budget) for column, path in held.items()}
    wanted = {f"cache {name}": plan.id for name, plan in plans.items()}
    made = {} if recipe is None else {"recipe": recipe.digest()}
    wanted |= made
    found = read_trial(at, request.protocol)
    if found is not None and wanted.items() <= found.digests.items():
        return found, at

    # One process at a time: training and evaluation go on with what the folder holds.
    with at_work(at.folder):
        log.info(f"{row.name}, seed {seed}: {at.folder}")
        run = None if row.untrained else _train(request, data, row, at, cache)
        scores = {}
        for column in data.columns:
            label = column.label
            want = {**made, "cache 0": plans[label].id}
            scores[label] = _evaluate(request, data, row, at, run, column, held[column], want)

        # The checkpoint's digest stands in the results, wherever a child process put the run.
        first = read_results(at.results(data.columns[0], request.protocol))
        plan = next(iter(plans.values()))
        parameters, warm = _parameters(recipe, places, plan)
        ms = flops = None
        if row.curve and seed == 0 and run is not None:
            column = data.columns[0]
            ms = answer_ms(
                run,
                held[column],
                data,
                column,
                row,
                replace(at.flags, seed=None),
                request.device,
            )
            asked = resolve_train(
                request.size, None, at.flags, (*at.overrides, *row.evaluate), weights=False
            )[0]
            flops = answer_flops(
                asked, places, plan, mean(score.tokens for score in scores.values())
            )
        cell = Trial(
            seed=seed,
            folder=at.folder.name,
            digests={"checkpoint": first.header.digests["checkpoint"]} | wanted,
            parameters=parameters,
            warm=warm,
            scores=scores,
            seconds={
                "train": elapsed(at.spent("train")),
                "eval": elapsed(at.spent("eval")),
            },
            commit=commit(),
            libraries=libraries(),
            ms=ms,
            flops=flops,
        )
        write_file(
            at.record(request.protocol), canonical(cell.model_dump(mode="json")), label="cell"
        )
    return cell, at


def _plan(cache: Path, budget: Budget) -> Plan:
    """The plan of a cache that training or evaluation at a budget reads."""
    return Plan.load(cache, chosen_view(cache, partial(require_order, budget, cache=cache)))


def _parameters(recipe: TrainRecipe | None, places: Places, plan: Plan) -> tuple[int, int]:
    """Of the projector, and how many of them start warm; (0, 0) for what is as published."""
    if recipe is None:
        return 0, 0
    width = language_of(recipe, places).hidden_size
    projector = outline_projector(recipe, plan.channels, plan.grid, width)
    return sum(p.numel() for _, p in projector.named_parameters()), warm_of(recipe, projector)


def warm_of(recipe: TrainRecipe, projector: Projector) -> int:
    """Parameters copied from the shipped model's projector, 0 where not all of its layers fit.

    A comparison must tell: all imitate it before they train (`train.warm`).
    """
    if not (recipe.model.warm_projector and recipe.model.init.kind == "shipped"):
        return 0
    with importlib.resources.as_file(importlib.resources.files("svp") / TINY_MODEL) as path:
        known = {
            name.removeprefix("projector."): value.shape
            for name, value in load_state_dict(path).items()
            if name.startswith("projector.")
        }
    own = {name: parameter.shape for name, parameter in projector.named_parameters()}
    fits = all(own.get(name) == shape for name, shape in known.items())
    return sum(shape.numel() for shape in known.values()) if fits else 0


def _train(request: ReproduceRequest, data: Data, row: Row, at: Place, cache: Path) -> Path:
    """The run folder of the trained model."""
    if at.asked and any(at.folder.glob("cell*.json")):
        return newest_run(at.folder)  # trained for another evaluation
    with timed(at.spent("train")):
        if request.processes > 1:
            started(train_words(request, data, row, at, cache), request)
            return newest_run(at.folder)
        train_request = TrainRequest(
            caches=(cache,),
            data=DataRequest(dataset=data.dataset, root=data.root),
            size=request.size,
            flags=at.flags,
            overrides=at.overrides,
            runs=at.folder,
            resume="auto",
            device=request.device,
            hint=request.hint,
        )
        return train_command(train_request).folder


def _evaluate(
    request: ReproduceRequest,
    data: Data,
    row: Row,
    at: Place,
    run: Path | None,
    column: Column,
    cache: Path,
    want: Mapping[str, str],
) -> TrialScore:
    """Scores of one split; bounds of the superpixels only once, as no seed changes them."""
    path = at.results(column, request.protocol)
    if not path.exists():
        with timed(at.spent("eval")):
            if request.processes > 1:
                started(eval_words(request, row, at, {column: cache}), request)
            else:
                eval_request = EvalRequest(
                    data=DataRequest(dataset=column.dataset, root=data.root),
                    split=column.split,
                    caches=(cache,),
                    checkpoint=run,
                    published=request.published if row.untrained else None,
                    flags=replace(at.flags, seed=None),
                    protocol=request.protocol,
                    bounds=at.seed == 0 and not at.asked,
                    overrides=row.evaluate,
                    budget=row.budget or None,
                    device=request.device,
                    out=path,
                )
                eval_command(eval_request)

    # A result file that was there may be of a checkpoint or cache that has been replaced since.
    results = read_results(path)
    if not want.items() <= results.header.digests.items():
        raise DataError(
            f"{show(str(path), 300)}: results of other weights or another cache than are here now: "
            "remove the file, and the folder of the run if its weights have changed"
        )
    return _score(results)


def _score(results: Results) -> TrialScore:
    (size,) = results.header.splits
    tokens = {row.image_id: row.tokens for row in results.rows}
    return TrialScore(
        metrics=metrics(results.counts),
        tokens=mean(tokens.values()),
        images=size.images,
        sentences=size.sentences,
    )
