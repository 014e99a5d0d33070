"""Collect the trials of a table: scores, differences, orderings, cost; time and memory of Table 6."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from ... import __version__
from ...pipeline.weights.rehearsal import rehearsal_settings
from ..bench.presets import Preset, preset
from ..bench.speed import bench_infer, bench_train
from ..data.cache_fit import outline_projector
from ..estimates.hours import GRID
from ..evaluation.paper_numbers import TABLE_6
from ..evaluation.results import Results, read_results
from ..evaluation.significance import Sums, agreement, difference, sums_of, verdict
from ..metrics import Counts, intervals
from ..options import TrainFlags, resolve_train
from ..provenance import commit, libraries
from .caches import Caches
from .comparison.curve_results import curve_results
from .experiment import Claim, Experiment, Row
from .paper_tables import experiment
from .request import Data, ReproduceRequest
from .results import Bench, ClaimResult, RowResult, Score, TableResult
from .trial_folder import Place
from .trials import Trial

log = logging.getLogger(__name__)

CHANNELS, LLM = 1024, 4096  # the paper's


@dataclass
class Gathered:
    """Results of a table so far; a row's result is computed once.

    cells    finished cells of each row, by seed
    reasons  why a row has none
    caches   caches of each row
    """

    request: ReproduceRequest
    data: Data
    table: Experiment
    cells: dict[str, list[tuple[Trial, Place]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    caches: dict[str, set[Path]] = field(default_factory=dict)
    bench: Bench | None = None
    _rows: dict[str, tuple[RowResult, list[Sums]]] = field(default_factory=dict)

    def add(self, row: Row, cells: Sequence[tuple[Trial, Place]], caches: set[Path]) -> None:
        """Take note of a row's finished cells, and of the caches they read."""
        if self.cells.get(row.name) != list(cells):
            self._rows.pop(row.name, None)
        self.cells[row.name], self.caches[row.name] = list(cells), caches

    def result(self) -> TableResult:
        """The table as far as it is known."""
        # Reading results and drawing intervals takes seconds a row: each row is made once.
        for row in self.table.rows:
            if row.name not in self._rows:
                self._rows[row.name] = self._make(row)
        rows = [self._rows[row.name][0] for row in self.table.rows]
        ours = {row.name: row.value for row in rows if row.value is not None}
        paper = {row.name: row.paper_mean for row in rows if row.paper_mean is not None}
        cells = [cell for row in rows for cell in row.cells]
        trained = {cell.folder: cell.seconds.get("train", 0.0) for cell in cells}  # shared by rows
        return TableResult(
            svp=__version__,
            commit=commit(),
            table=self.table.key,
            size=self.request.size,
            title=self.table.title,
            metric=self.table.metric,
            protocol=self.request.protocol,
            seeds=self.request.seeds,
            changes=list(self.request.changes),
            columns=[column.label for column in self.data.columns],
            rows=rows,
            claims=[found for claim in self.table.claims if (found := self._claim(claim))],
            agree=agreement(ours, paper),
            curves=curve_results(self.table, self._rows),
            notes=[*([force.line()] if (force := rehearsal_settings()) else []), *self.table.notes],
            seconds={
                "caches": Caches.seconds(set().union(*self.caches.values())),
                "train": sum(trained.values()),
                "eval": sum(cell.seconds.get("eval", 0.0) for cell in cells),
            },
            libraries=libraries(),
            bench=self.bench,
        )

    def _make(self, row: Row) -> tuple[RowResult, list[Sums]]:
        found = self.cells.get(row.name, [])
        base = RowResult(
            name=row.name,
            not_run=row.not_run or ("" if found else self.reasons.get(row.name, "not run yet")),
            paper=list(row.published) if row.published else None,
            paper_mean=row.published_mean,
            changes={
                "train": [str(override) for override in row.train],
                "precompute": [str(override) for override in row.cache],
            },
            full=None if row.not_run else full_parameters(self.table.key, row.name),
        )
        if not found:
            return base, []

        # A row's value is the mean over seeds of the mean over splits.
        cells = [cell for cell, _ in found]
        read = {
            c.label: [read_results(p.results(c, self.request.protocol)) for _, p in found]
            for c in self.data.columns
        }
        metric = self.table.metric
        counts = [
            count
            for every in read.values()
            for one in every
            for count in {row.image_id: row.tokens for row in one.rows}.values()
        ]
        by_seed = {
            str(cell.seed): mean(score.metrics[metric] for score in cell.scores.values())
            for cell in cells
        }
        result = base.model_copy(
            update={
                "cells": cells,
                "scores": {label: scores(every) for label, every in read.items()},
                "mean": by_seed,
                "tokens": mean(s.tokens for cell in cells for s in cell.scores.values()),
                "tokens_p95": float(np.percentile(counts, 95)),
                "tokens_most": max(counts),
                "parameters": cells[0].parameters,
                "warm": cells[0].warm,
                "seconds": sum(sum(cell.seconds.values()) for cell in cells),
                "caches": Caches.seconds(self.caches[row.name]),
            }
        )
        return result, [sums_of(every, metric) for every in read.values()]

    def _claim(self, claim: Claim) -> ClaimResult | None:
        """The ordering, if both rows were run on all splits."""
        sides = [self._rows[name] for name in (claim.better, claim.worse)]
        if not all(sums for _, sums in sides):
            return None
        (better, above), (worse, below) = sides
        found = difference(above, below)
        published = None
        if better.paper_mean is not None and worse.paper_mean is not None:
            published = better.paper_mean - worse.paper_mean
        return ClaimResult(
            better=claim.better, worse=claim.worse, paper=published, value=found.value,
            low=found.low, high=found.high, verdict=verdict(found),
        )  # fmt: skip


def scores(seeds: Sequence[Results]) -> dict[str, Score]:
    """Every metric of one split: all seeds' sentences pooled, images drawn; spread over seeds."""
    # Images are drawn, not sentences: those of one image are not independent of each other.
    counts = [one.counts for one in seeds]
    pooled = Counts(
        np.concatenate([c.intersection for c in counts]),
        np.concatenate([c.union for c in counts]),
        np.concatenate([c.target for c in counts]),
    )
    images = np.concatenate([one.images for one in seeds])
    single = [intervals(c, one.images, draws=1) for c, one in zip(counts, seeds, strict=True)]
    found = {}
    for name, value in intervals(pooled, images).items():
        each = [values[name].value for values in single]
        spread = stdev(each) if len(each) > 1 else None
        found[name] = Score(value=value.value, low=value.low, high=value.high, sd=spread)
    return found


def full_parameters(table: str, row: str) -> int | None:
    """Parameters of the row's projector at the paper's size, 1024 -> 4096, options of that size.

    None for a row that size does not have.
    """
    same = {other.name: other.train for other in experiment(table, "paper").rows}
    if row not in same:
        return None
    train = same[row]
    recipe, _ = resolve_train("paper", None, TrainFlags(), train, weights=False)
    projector = outline_projector(recipe, CHANNELS, GRID, LLM)
    return sum(parameter.numel() for parameter in projector.parameters())


LOOP = "encoders in the loop"  # as the paper trains
PRESETS = {"tiny": "cpu", "world2": "cpu", "paper": "paper"}


def published() -> dict[str, float]:
    """The paper's ratios GLaMM + DINOv2 / SVP; its units of time are lost, ratios are not."""
    slow, fast = TABLE_6
    return {
        f"training time, {LOOP}": slow.train_time / fast.train_time,
        f"training memory, {LOOP}": slow.train_gb / fast.train_gb,
        "inference time": slow.inference_ms / fast.inference_ms,
        "inference memory": slow.inference_gb / fast.inference_gb,
    }


def measure(shapes: Preset, device: str, repeats: int = 3) -> Bench:
    """The same ratios of ours, and those of training from a cache, which the paper has not.

    As many images go into a pass of one as of the other. Raises what the benches raise.
    """
    shapes = same_images(shapes)
    log.info(f"bench train and infer, preset {shapes.name}, on {device}")
    train, infer = bench_train(shapes, device, repeats), bench_infer(shapes, device, repeats)
    memory = {
        (one.case.what, one.case.where, one.case.projector): one.memory
        for one in (*train.cases, *infer.cases)
    }
    stage, live = "stage 2", "forward"
    return Bench(
        ratios={
            f"training time, {LOOP}": train.ratios()[f"{stage}, live"],
            f"training memory, {LOOP}": _ratio(memory, stage, "live"),
            "training time, from cache": train.ratios()[f"{stage}, from cache"],
            "training memory, from cache": _ratio(memory, stage, "from cache"),
            "inference time": infer.ratios()[f"{live}, live"],
            "inference memory": _ratio(memory, live, "live"),
        },
        paper=published(),
        train=train.to_json(),
        infer=infer.to_json(),
    )


def same_images(shapes: Preset) -> Preset:
    """With the micro-batch that fits both projectors."""
    micro = min(shapes.micro.values())
    return replace(shapes, micro=dict.fromkeys(shapes.micro, micro))


def for_size(size: str, device: str) -> Bench:
    """The bench that stands for a size of the table: the `cpu` or the `paper` preset."""
    return measure(preset(PRESETS[size]), device if size == "paper" else "cpu")


def _ratio(memory: dict[tuple[str, str, str], int], what: str, where: str) -> float:
    return memory[what, where, "mlp"] / memory[what, where, "svp"]
