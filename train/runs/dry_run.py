"""`svp train --dry-run`: trainable parameters, memory and time of a run, without its weights.

The model is built on the meta device. Without a cache its sizes are those of the recipe's encoder
and the SAM of its size; a typical image stands in for the data, and is stated. Time is measured
where the model is shipped, else computed for five GPUs from operation counts.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...model.batch import Batch
from ...model.losses import Weights
from ...model.projectors import projector_class
from ...model.ris import RisModel
from ...model.trainable import TrainableTable
from ...pipeline.cache.plan import Plan
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.display import Report, counted
from ...pipeline.fetch.encoder_specs import ENCODERS
from ...pipeline.io.paths import expand
from ...pipeline.precompute.options import Flags, resolve
from ...pipeline.precompute.planner import sized_plan
from ...pipeline.precompute.purpose import stores
from ...pipeline.process import pick_device
from ..data.collate import CachedVisuals
from ..data.expression_table import ExpressionTable
from ..data.length_cuts import most_samples
from ..data.shipped_language import shipped_words
from ..data.tokenizer import load_vocabulary
from ..estimates.gpus import GPUS, Gpu
from ..estimates.memory import CONTEXT, GIB, SLACK, Line, MemoryEstimate
from ..estimates.sizing import (
    GROWING,
    SHARE,
    SLACK_ITEM,
    Choice,
    Demand,
    choose,
    demand,
    settled,
    this_device,
)
from ..estimates.typical_batch import SUPERPIXELS, typical_image
from ..factory import assemble, language_of, outline
from ..options import Places, resolve_train
from ..recipe import TrainRecipe, split_evenly
from ..trainer.prepare import make_ready
from ..trainer.remote_run import folder_of
from ..trainer.trackers import chosen_trackers
from .inputs import Opened, TrainRequest, open_training, stream_of, with_caches

log = logging.getLogger(__name__)

SIZES = {
    "tiny": "tiny",
    "tiny-world2": "tiny",
    "tiny-clip-world2": "tiny",
    "clip-tiny": "tiny",
    "dinov2-base": "small",
    "dinov2-small": "small",
}


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
            f"visual tokens per image: mean {self.mean:.1f}, median {self.median:.0f}, p95 "
            f"{self.p95:.0f}, max {self.most}; text tokens: mean {self.text:.0f}"
        )


@dataclass(frozen=True)
class Priced:
    """The run on one GPU: how it would be split, and hours with one of them."""

    gpu: Gpu
    choice: Choice
    hours: float

    def line(self) -> str:
        """For people."""
        time = f"{self.hours:.1f} h on one" if self.choice.fits else ""
        return "; ".join(part for part in (f"{self.gpu.name}: {self.choice.line()}", time) if part)


@dataclass(frozen=True)
class DryRun(Report):
    """The plan of a run.

    assumed  what stands in for data that was not named, "" if it was
    memory   of the last stage, split as `shown` says
    gpus     the same run on each GPU; none where `hours` was measured on this machine
    """

    recipe: TrainRecipe
    tables: dict[str, TrainableTable]
    accumulation: int
    length: Length
    memory: MemoryEstimate
    shown: Priced
    gpus: tuple[Priced, ...] = ()
    hours: float | None = None
    images: int = 0
    sentences: int = 0
    assumed: str = ""

    def lines(self) -> list[str]:
        recipe = self.recipe
        lines = [f"recipe {recipe.name}, digest {recipe.digest()}"]
        for stage in recipe.stages:
            sspe = "added" if stage.add_sspe else "not added"
            lines += [
                (
                    f"stage {stage.name}: {counted(stage.steps, 'step')}, rate {stage.lr:g}, SSPE "
                    f"{sspe}"
                )
            ]
            lines += [f"  {line}" for line in self.tables[stage.name].lines()]
        split = f"{counted(recipe.run.images, 'image')} x {self.accumulation} accumulated"
        lines.append(f"global batch {recipe.global_batch} = {split} x processes")
        if self.images:
            passes = recipe.steps * recipe.global_batch / self.images
            lines.append(
                f"{counted(self.images, 'image')} with {counted(self.sentences, 'sentence')}; "
                f"{counted(recipe.steps, 'step', 'are')} {passes:.1f} passes"
            )
        else:
            lines.append(f"no cache named: {self.assumed}")
        choice = self.shown.choice
        kept = "layers recomputed" if choice.recompute else "all activations kept"
        lines += [
            self.length.line(),
            f"memory of the last stage, micro-batch {choice.micro}, {kept}:",
        ]
        lines += [f"  {line}" for line in self.memory.lines()]
        if self.hours is not None:
            return [*lines, f"time: {self.hours:.2f} h on one process here (one image measured)"]
        lines.append(
            f"time: at {SHARE:.0%} of the dense bfloat16 peak, and the language model's weights read "
            "once a pass (22 and 29 % of the peak were measured in the stages on an H200 with "
            "micro-batch 24 and all activations kept; the other GPUs were not measured):"
        )
        return lines + [f"  {priced.line()}" for priced in self.gpus]

    def to_json(self) -> dict[str, object]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "digest": self.recipe.digest(),
            "trainable": {name: table.to_json() for name, table in self.tables.items()},
            "accumulation": self.accumulation,
            "images": self.images,
            "sentences": self.sentences,
            "assumed": self.assumed,
            "memory": self.memory.to_json(),
            "hours": self.hours,
            "gpus": {
                priced.gpu.name: {
                    "micro_batch": priced.choice.micro,
                    "gradient_checkpointing": priced.choice.recompute,
                    "memory": priced.choice.need,
                    "fits": priced.choice.fits,
                    "hours": priced.hours,
                }
                for priced in self.gpus
            },
        }


def dry_run_command(request: TrainRequest) -> DryRun:
    """The plan of a run. Raises as `train_command`, but neither weights nor data need to be there."""
    chosen_trackers(request.log)
    if request.caches or request.data.dataset:
        request = with_caches(request)
    recipe, places = resolve_train(
        request.size, request.recipe_file, request.flags, request.overrides, weights=False
    )
    projector_class(recipe.model.projector.name)
    opened = (
        open_training(request, pick_device(request.device), weights=False)
        if request.caches
        else None
    )
    plan = opened.readers[0].plan if opened else planned(recipe, request.size)
    # Folders that may have the language model's config.json; a dry run needs no weights.
    given = {name: getattr(request.flags, name) for name in ("init", "lm")}
    folders = replace(places, **{name: expand(path) for name, path in given.items() if path})
    model = outline(recipe, plan, language_of(recipe, folders))
    tables = {
        stage.name: make_ready(model, recipe, index, (3, 4, 7))
        for index, stage in enumerate(recipe.stages)
    }
    images = sentences = 0
    if opened:
        table = opened.table(request.partial, folder_of(request.runs))
        images, sentences = len(table), table.sentence_count
        length = _length(opened.readers, model, _drawn(opened, request, table, model))
        seen = max(1, round(float(np.mean(_counts(opened.readers)))))
        image = typical_image(recipe, plan, seen, round(length.text))
    else:
        image = typical_image(recipe, plan)
        count = model.projector.most_tokens(plan.grid) or SUPERPIXELS
        length = Length(count, count, count, count, float(image.lengths[0]))
    need = demand(recipe, model, image)
    priced = [price_on(recipe, need, gpu) for gpu in GPUS.values()]
    shown = _shown(request, recipe, need, priced)
    shipped = recipe.model.init.kind == "shipped"
    recipe = settled(recipe, shown.choice)
    if opened and request.tier is not None:
        for reader in opened.readers:
            request.tier.require_batch(reader.plan, most_samples(recipe.run.images))
    found = need.one[shown.choice.recompute]
    return DryRun(
        recipe, tables, split_evenly(recipe, 1), length, scaled(found, shown.choice.micro), shown,
        gpus=() if shipped else tuple(priced),
        hours=_measured(recipe, plan, image) if shipped else None,
        images=images, sentences=sentences,
        assumed=f"{SUPERPIXELS} superpixels (the paper's mean) and {int(image.lengths[0])} text ids "
        f"per image, {plan.recipe.features.encoder}, SAM {plan.recipe.superpixels.model}",
    )  # fmt: skip


def planned(recipe: TrainRecipe, size: str | None) -> Plan:
    """The plan, without images, of the caches a recipe reads; no weights are looked for."""
    vision = recipe.model.vision
    size = size or SIZES.get(vision.encoder, "paper")
    flags = Flags(  # the tiny models are in the package, and the shipped decoder reads no other SAM
        sam_weights=None if size == "tiny" else "random",
        encoder_weights=None if ENCODERS[vision.encoder].shipped else "random",
        encoder=vision.encoder,
    )
    fields = (f"features.size={vision.size}", f"features.view={vision.view}")
    made, _ = resolve(
        size, None, flags, fields, Path(), stores("train", recipe.model.projector.name)
    )
    return sized_plan(made)


def scaled(one: MemoryEstimate, images: int) -> MemoryEstimate:
    """The estimate of one image, for so many at once."""
    items = [
        Line(i.what, images * i.bytes, f"{images} x ({i.formula})", i.host)
        if i.what in GROWING and images > 1
        else i
        for i in one.items
        if i.what != SLACK_ITEM
    ]
    used = sum(item.bytes for item in items if not item.host)
    extra = f"{CONTEXT / GIB:.1f} GiB + {SLACK:.0%} of the above (assumed)"
    return MemoryEstimate((*items, Line(SLACK_ITEM, CONTEXT + int(SLACK * used), extra)))


def price_on(recipe: TrainRecipe, need: Demand, gpu: Gpu) -> Priced:
    """The run on one `gpu`, split as fits it, with the time of all its steps."""
    choice = choose(recipe, need, gpu)
    each = need.seconds(choice.micro, choice.recompute, gpu)
    return Priced(gpu, choice, recipe.steps * recipe.global_batch * each / 3600)


def _shown(
    request: TrainRequest, recipe: TrainRecipe, need: Demand, priced: list[Priced]
) -> Priced:
    """On this machine's GPU, else on the smallest that takes the run."""
    device = pick_device(request.device)
    if device != "cpu":
        return price_on(recipe, need, this_device(torch.device(device)))
    return next((one for one in priced if one.choice.fits), priced[-1])


def _drawn(opened: Opened, request: TrainRequest, table: ExpressionTable, model: RisModel) -> Batch:
    """The first micro-batch of the run."""
    folder = request.flags.init or request.flags.lm
    words = shipped_words(opened.recipe.model.lm)
    vocab = load_vocabulary(Path(folder)) if folder and Path(folder).is_dir() else words
    if opened.recipe.model.rejection:
        vocab = vocab.with_rejection()
    if opened.recipe.model.system_text is not None:
        vocab = vocab.with_system(opened.recipe.model.system_text)
    selector = opened.recipe.budget.selector(opened.readers[0].plan.recipe.order)
    visuals = CachedVisuals(opened.readers, model.projector.needs, selector=selector)
    stream = stream_of(
        opened.recipe, table, visuals, vocab,
        fixed=model.projector.most_tokens(visuals.plan.grid), max_failures=opened.data.max_failures,
    )  # fmt: skip
    for line in [*table.notes, *stream.too_long.faults().notices()]:
        log.info(line)
    return next(stream.steps(stream.start())).batches[0].to("cpu", torch.float32)


def _counts(readers: tuple[RowReader, ...]) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    counts = np.concatenate([reader.counts for reader in readers])
    # A live reader's cache may hold no row yet.
    return counts[counts > 0] if counts.any() else np.array([SUPERPIXELS], np.uint16)


def _length(readers: tuple[RowReader, ...], model: RisModel, batch: Batch) -> Length:
    fixed = model.projector.most_tokens(readers[0].plan.grid)
    tokens = _counts(readers) if fixed is None else np.array([fixed])
    return Length(
        float(tokens.mean()),
        float(np.median(tokens)),
        float(np.percentile(tokens, 95)),
        int(tokens.max()),
        float(batch.lengths.float().mean()),
    )


def _measured(recipe: TrainRecipe, plan: Plan, image: Batch) -> float:
    """Hours by the second of two passes of one image in the last stage, on this machine's CPU."""
    model = assemble(recipe, plan, Places()).model
    make_ready(model, recipe, len(recipe.stages) - 1)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        model(image).total(Weights()).backward()
        seconds = time.perf_counter() - began
    return seconds * recipe.steps * recipe.global_batch / 3600
