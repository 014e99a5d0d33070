"""What the paper's size costs before anything is there: commands, GPU-hours, disk, memory.

Images are the published counts (an upper bound: the three sets share photographs). Time comes from
operation counts and a stated share of the peak; nothing was measured. No weights are read.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...model.activations import LanguageModel
from ...model.memory import CONTEXT, SLACK
from ...model.ris import RisModel
from ...pipeline.run.cost import Estimate, size
from ...pipeline.run.launch import Request, price
from ...pipeline.sources.counts import COUNTS
from ..assemble import llama_shape, outline
from ..bench.flops import llm_flops
from ..dryrun import PEAK, SHARE
from ..evaluation.paper import SPLIT_BY
from ..fit.stage import make_ready
from ..settings import TrainFlags, resolve_train
from .ask import Ask, Data
from .caches import FLAGS
from .cells import outline_projector
from .gather import CHANNELS, GRID, LLM
from .tables import Experiment, Row

DEVICE, GPU = "h100", "H100 or H200"
SUPERPIXELS = 40  # the paper's mean
TEXT = 72 + 2 * 28  # text ids of a dialogue of three sentences (bench/presets.py, bench/inputs.py)
ANSWERS = 3 * 8  # supervised ids


@dataclass(frozen=True, slots=True)
class RowPrice:
    """One row with one seed, on one GPU.

    hours   of training; memory  bytes of one training process
    tokens  visual tokens per image that were assumed
    """

    name: str
    not_run: str
    tokens: int
    parameters: int
    hours: float
    memory: int
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CachePrice:
    """One cache: its command and its estimate."""

    command: str
    cost: Estimate


@dataclass(frozen=True)
class PricePlan:
    """The price of a table at the paper's size; `missing` says what is not here."""

    table: str
    seeds: int
    rows: tuple[RowPrice, ...]
    caches: tuple[CachePrice, ...]
    missing: tuple[str, ...]
    asked: bool

    @property
    def exit_code(self) -> int:
        """0 if only the plan was asked for, 2 if the run was and cannot be."""
        return 0 if self.asked else 2

    @property
    def hours(self) -> dict[str, float]:
        """GPU-hours by part."""
        trained = self.seeds * sum(row.hours for row in self.rows if not row.not_run)
        return {"precompute": sum(c.cost.worker_hours for c in self.caches), "training": trained}

    @property
    def disk(self) -> int:
        """Bytes of all caches."""
        return sum(cache.cost.total_bytes for cache in self.caches)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.table} at the paper's size, {self.seeds} seed(s). Caches:"]
        for cache in self.caches:
            cost = cache.cost
            lines += [f"  {cache.command}", (f"    {cost.images} images, {size(cost.total_bytes)}, "
                      f"{cost.worker_hours:.1f} hours of {cost.device}")]  # fmt: skip
        lines.append("Rows, seed 0 (repeat with --seed 1, 2, ...):")
        for row in self.rows:
            if row.not_run:
                lines.append(f"  {row.name}: cannot be run: {row.not_run}")
                continue
            head = f"  {row.name}: {row.tokens} tokens, projector {row.parameters / 1e6:.1f} M, "
            head += f"{row.hours:.1f} GPU-hours per seed, {size(row.memory)} per process"
            lines += [head, *(f"    {command}" for command in row.commands)]
        parts = ", ".join(f"{name} {hours:.0f}" for name, hours in self.hours.items())
        most = max((row.memory for row in self.rows if not row.not_run), default=0)
        lines += [
            (
                f"in all {sum(self.hours.values()):.0f} GPU-hours on {GPU} ({parts}); disk "
                f"{size(self.disk)}; GPU memory up to {size(most)}"
            ),
            (
                f"basis: published image counts (the sets share photographs: an upper bound), "
                f"{SUPERPIXELS} superpixels per image, {TEXT} text ids, {SHARE:.0%} of "
                f"{PEAK[GPU] / 1e12:.0f} TFLOP/s, the language model only; memory without the "
                "projector's and mask decoder's activations; evaluation not counted"
            ),
        ]
        lines += [f"missing: {what}" for what in self.missing]
        if not self.asked:
            lines.append(
                "not started: the above is missing here. Give it and run the same command."
            )
        return lines

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "table": self.table,
            "seeds": self.seeds,
            "gpu_hours": self.hours,
            "disk": self.disk,
            "missing": list(self.missing),
            "caches": [{"command": c.command, **c.cost.to_json()} for c in self.caches],
            "rows": [
                {name: getattr(row, name) for name in RowPrice.__slots__} for row in self.rows
            ],
        }


def price_plan(
    ask: Ask, data: Data, table: Experiment, missing: Sequence[str], *, asked: bool
) -> PricePlan:
    """The price of a table at the paper's size. Raises ConfigError."""
    rows = [table.row(name) for name in ask.rows] or list(table.rows)
    runnable = [row for row in rows if not row.not_run]
    made = Reference(ask)
    caches: dict[tuple[tuple[str, ...], str, str], CachePrice] = {}
    splits = [(data.dataset, "train"), *((c.dataset, c.split) for c in data.columns)]
    for row in runnable:
        for dataset, split in splits:
            if (key := (row.cache, dataset, split)) not in caches:
                caches[key] = _cache(ask, row, dataset, split)
    return PricePlan(
        table.key, ask.seeds, tuple(_row(ask, data, row, made) for row in rows),
        tuple(caches.values()), tuple(missing), asked,
    )  # fmt: skip


class Reference:
    """The paper's model on the meta device, as its second stage trains it; made once."""

    def __init__(self, ask: Ask) -> None:
        self.recipe, _ = resolve_train("paper", None, TrainFlags(), ask.changes, weights=False)

    @cached_property
    def model(self) -> RisModel:
        """Adapters included."""
        model = outline(self.recipe, None, llama_shape(self.recipe))
        make_ready(model, self.recipe, len(self.recipe.stages) - 1)
        return model

    def hours(self, tokens: int) -> float:
        """GPU-hours of one run with so many visual tokens per image."""
        lm: Any = self.model.lm
        each = llm_flops(lm, [tokens + TEXT], ANSWERS, training=True)
        if self.recipe.run.gradient_checkpointing:  # the layers' forward pass once more
            each += llm_flops(lm, [tokens + TEXT], 0, training=False)
        return self.recipe.steps * self.recipe.global_batch * each / (SHARE * PEAK[GPU]) / 3600

    def memory(self, tokens: int, projector: int) -> int:
        """Bytes of a process: weights, gradients, optimizer, and what the language model keeps."""
        own = {id(p) for p in self.model.projector.parameters()}
        rest = [p for p in self.model.parameters() if id(p) not in own]
        trained = sum(p.numel() for p in rest if p.requires_grad) + projector
        weights = sum(p.numel() * p.dtype.itemsize for p in rest) + 4 * projector
        places = self.recipe.run.micro_batch * (tokens + TEXT)
        lm = LanguageModel.of(self.model.lm, torch.bfloat16)
        kept, _ = lm.kept(places, self.recipe.run.gradient_checkpointing)
        head, _ = lm.head(self.recipe.run.micro_batch * ANSWERS)
        used = weights + 14 * trained + kept + head  # gradients 4, AdamW 8, a bfloat16 copy 2
        return CONTEXT + int((1 + SLACK) * used)


def _row(ask: Ask, data: Data, row: Row, made: Reference) -> RowPrice:
    if row.not_run:
        return RowPrice(row.name, row.not_run, 0, 0, 0.0, 0, ())
    recipe, _ = resolve_train(
        "paper", None, TrainFlags(), (*row.train, *ask.changes), weights=False
    )
    made_of = outline_projector(recipe, CHANNELS, GRID, LLM)
    tokens = made_of.num_tokens(GRID) or SUPERPIXELS
    projector = sum(parameter.numel() for parameter in made_of.parameters())
    return RowPrice(
        row.name, "", tokens, projector, made.hours(tokens), made.memory(tokens, projector),
        _commands(ask, data, row),
    )  # fmt: skip


def _cache(ask: Ask, row: Row, dataset: str, split: str) -> CachePrice:
    count = sum(COUNTS[name, SPLIT_BY[name]][split].images for name in dataset.split(","))
    request = Request(
        dataset=None, split=split, out=None, images=Path(), size="paper", flags=FLAGS,
        overrides=row.cache,
    )  # fmt: skip
    words = ["svp", "precompute", "--size", "paper", "--split", split, "--dataset", dataset,
             "--root", str(ask.root or "DATA"), "--store-sam-embeddings", *_sets(row.cache),
             "--out", str(_place(ask, row, dataset, split))]  # fmt: skip
    return CachePrice(shlex.join(words), price(request, DEVICE, count))


def _commands(ask: Ask, data: Data, row: Row) -> tuple[str, ...]:
    root, runs = str(ask.root or "DATA"), ask.runs / _slug(row.name)
    init = ask.init or "GLaMM-GranD-Pretrained"
    train = ["svp", "train", "--size", "paper", "--from-cache",
             str(_place(ask, row, data.dataset, "train")), "--dataset", data.dataset, "--root", root,
             "--init", init, "--seed", "0", *_sets((*row.train, *ask.changes)), "--runs", str(runs),
             "--resume", "auto"]  # fmt: skip
    evals = [
        ["svp", "eval", "--from-cache", str(_place(ask, row, c.dataset, c.split)), "--dataset",
         c.dataset, "--root", root, "--split", c.split, "--init", init, "--runs", str(runs)]
        for c in data.columns
    ]  # fmt: skip
    return tuple(shlex.join(words) for words in (train, *evals))


def _place(ask: Ask, row: Row, dataset: str, split: str) -> Path:
    kind = _slug(row.name) if row.cache else "base"
    return ask.caches / f"paper-{kind}-{dataset.replace(',', '-')}-{split}"


def _slug(name: str) -> str:
    return "-".join("".join(c.lower() if c.isalnum() else " " for c in name).split())


def _sets(assignments: Sequence[str]) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]
