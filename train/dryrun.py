"""`svp train --dry-run`: what would train, on how much memory, for how long; no weights are needed.

The model is built on the meta device. Time is measured where the model is shipped, else computed
from the language model's arithmetic, with the assumption stated.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..model.batch import Batch
from ..model.imports.shape import LlamaShape, read_shape
from ..model.losses import Weights
from ..model.memory import MemoryEstimate, estimate_memory
from ..model.ris import RisModel
from ..model.trainable import TrainableTable
from ..pipeline.paths import expand
from ..pipeline.store.reader import CacheReader
from .assemble import assemble, llama_shape, outline, shipped_shape, shipped_words
from .feed.fill import CachedVisuals
from .fit.loop import split_evenly
from .fit.stage import make_ready
from .opening import CACHE, Opened, TrainRequest, open_training, pick_device, stream_of
from .recipe import TrainRecipe
from .settings import SHIPPED, Places, resolve_train
from .text.tokens import load_vocabulary

PEAK = {"RTX 3090": 71e12, "A100": 312e12, "H100 or H200": 989e12}  # dense bf16 FLOP/s
SHARE = 0.25  # of the peak: 0.29 and 0.22 in the stages on an H200 (docs/benchmarks.md)


@dataclass(frozen=True)
class Length:
    """Tokens per image: visual ones as the caches hold them, text of one drawn micro-batch."""

    mean: float
    median: float
    p95: float
    most: int
    text: float

    def line(self) -> str:
        """For people."""
        return (
            f"visual tokens per image: mean {self.mean:.1f}, median {self.median:.0f}, 95 % "
            f"{self.p95:.0f}, most {self.most}; text tokens: mean {self.text:.0f}"
        )


@dataclass(frozen=True)
class DryRun:
    """The plan of a run; the parts after `tables` need a cache."""

    recipe: TrainRecipe
    tables: dict[str, TrainableTable]
    accumulation: int
    images: int = 0
    sentences: int = 0
    length: Length | None = None
    memory: MemoryEstimate | None = None
    hours: dict[str, float] | None = None

    exit_code = 0

    def lines(self) -> list[str]:
        """For people."""
        recipe = self.recipe
        lines = [f"recipe {recipe.name}, digest {recipe.digest()}"]
        for stage in recipe.stages:
            sspe = "added" if stage.add_sspe else "not added"
            lines += [f"stage {stage.name}: {stage.steps} steps, rate {stage.lr:g}, SSPE {sspe}"]
            lines += [f"  {line}" for line in self.tables[stage.name].lines()]
        split = f"{recipe.run.micro_batch} images x {self.accumulation} accumulated"
        lines.append(f"global batch {recipe.global_batch} = {split} x processes")
        if self.length is None or self.memory is None or self.hours is None:
            return [*lines, "memory and time: name a cache with --from-cache and a data set"]
        passes = recipe.steps * recipe.global_batch / max(1, self.images)
        lines.append(
            f"{self.images} images with {self.sentences} sentences; {recipe.steps} steps are "
            f"{passes:.1f} passes"
        )
        lines += [self.length.line(), "memory of the last stage:"]
        lines += [f"  {line}" for line in self.memory.lines()]
        return lines + [f"time: {hours:.2f} h {where}" for where, hours in self.hours.items()]

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "digest": self.recipe.digest(),
            "trainable": {name: table.to_json() for name, table in self.tables.items()},
            "accumulation": self.accumulation,
            "images": self.images,
            "sentences": self.sentences,
            "memory": self.memory.to_json() if self.memory else None,
            "hours": self.hours,
        }


def dry_run_command(request: TrainRequest) -> DryRun:
    """Print the plan of a run. Raises as `train_command`, but no weights need to be there."""
    recipe, _ = resolve_train(
        request.size, request.recipe_file, request.flags, request.overrides, weights=False
    )
    with_data = bool(request.caches) or (request.size in (None, "tiny") and CACHE.is_dir())
    opened = (
        open_training(request, pick_device(request.device), weights=False) if with_data else None
    )
    shape = _shape(recipe, request)
    model = outline(recipe, opened.readers[0].plan if opened else None, shape)
    tables = {
        stage.name: make_ready(model, recipe, index, (3, 4, 7))
        for index, stage in enumerate(recipe.stages)
    }
    plain = DryRun(recipe, tables, split_evenly(recipe, 1))
    return _with_data(plain, request, opened, model) if opened else plain


def _with_data(plain: DryRun, request: TrainRequest, opened: Opened, model: RisModel) -> DryRun:
    recipe = plain.recipe
    table = opened.table(request.partial, request.runs, request.say)
    folder = request.flags.init or request.flags.lm
    vocab = load_vocabulary(Path(folder)) if folder and Path(folder).is_dir() else shipped_words()
    visuals = CachedVisuals(opened.readers, model.projector.needs)
    stream = stream_of(
        recipe, table, visuals, vocab, fixed=model.projector.num_tokens(visuals.plan.grid),
        max_failures=opened.data.max_failures,
    )  # fmt: skip
    for line in [*table.notes, *stream.too_long.faults().notices()]:
        request.say(line)
    batch = next(stream.steps(stream.start())).batches[0].to("cpu", torch.float32)
    length = _length(opened.readers, model, batch)
    dtype = torch.bfloat16 if recipe.model.dtype == "bfloat16" else None
    memory = estimate_memory(
        model,
        batch,
        optimizer=recipe.optimizer,
        checkpointing=recipe.run.gradient_checkpointing,
        autocast=dtype,
    )
    shipped = recipe.model.init.startswith(SHIPPED)
    hours = _measured(recipe, opened, batch) if shipped else _computed(recipe, model, length)
    sentences = table.sentence_count
    return DryRun(recipe, plain.tables, plain.accumulation, len(table), sentences, length, memory,
                  hours)  # fmt: skip


def _shape(recipe: TrainRecipe, request: TrainRequest) -> LlamaShape:
    """Sizes of the language model: of the named folder, the shipped one, or the recipe's."""
    folder = expand(request.flags.init or request.flags.lm or "")
    if (folder / "config.json").is_file() and folder != Path():
        return read_shape(folder)
    if recipe.model.init.startswith(SHIPPED):
        return shipped_shape()
    random = recipe.model.lm.startswith("random:")
    return llama_shape(recipe, shipped_words().size if random else None)


def _length(readers: tuple[CacheReader, ...], model: RisModel, batch: Batch) -> Length:
    fixed = model.projector.num_tokens(readers[0].plan.grid)
    counts = np.concatenate([reader.counts for reader in readers])
    tokens = counts[counts > 0] if fixed is None else np.array([fixed])
    return Length(
        float(tokens.mean()),
        float(np.median(tokens)),
        float(np.percentile(tokens, 95)),
        int(tokens.max()),
        float(batch.lengths.float().mean()),
    )


def _computed(recipe: TrainRecipe, model: RisModel, length: Length) -> dict[str, float]:
    """2 FLOP per weight and position forward, 2 back through frozen weights, 2 for recomputing."""
    weights = sum(p.numel() for p in model.lm.model.layers.parameters())
    passes = 6 if recipe.run.gradient_checkpointing else 4
    positions = recipe.steps * recipe.global_batch * (length.mean + length.text)
    flop = passes * weights * positions
    return {
        f"on one {name} ({flop / 1e18:.2f} EFLOP of the language model at {SHARE:.0%} of "
        f"{peak / 1e12:.0f} TFLOP/s)": flop / (SHARE * peak) / 3600
        for name, peak in PEAK.items()
    }


def _measured(recipe: TrainRecipe, opened: Opened, batch: Batch) -> dict[str, float]:
    """The second of two passes of one micro-batch in the last stage, on this machine's CPU."""
    model = assemble(recipe, opened.readers[0].plan, Places()).model
    make_ready(model, recipe, len(recipe.stages) - 1)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        model(batch).total(Weights()).backward()
        seconds = time.perf_counter() - began
    micro = recipe.steps * recipe.global_batch / recipe.run.micro_batch
    return {"on one process here (one micro-batch measured)": seconds * micro / 3600}
