"""Latency and operations of an answer: features of one photograph to the mask of one sentence.

Superpixels and features are the cache's, so the encoders are in no time: they are the same in all
rows but those of superpixels.
"""

import time
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch

from ....model.batch import Batch
from ....model.inference.precision import arithmetic, input_dtype
from ....model.ris import RisModel
from ....pipeline.cache.plan import Plan, chosen_view
from ....pipeline.cache.reader import CacheReader
from ....pipeline.datasets import open_dataset
from ....pipeline.process import pick_device
from ....pipeline.superpixels.budget.selector import parse_budget, require_order
from ...data.cache_fit import outline_projector
from ...data.collate import CachedVisuals
from ...estimates.flops import llm_flops
from ...estimates.hours import TEXT, projector_flops
from ...evaluation.adjust import adjusted
from ...evaluation.evaluate import to_batch
from ...evaluation.load_trained import find_trained, open_trained
from ...evaluation.protocols import examples
from ...evaluation.protocols import plan as dialogues
from ...factory import language_of, outline
from ...options import Places, TrainFlags
from ...recipe import TrainRecipe
from ..experiment import Row
from ..request import Column, Data

IMAGES, REPEATS = 8, 3


def answer_ms(
    run: Path,
    cache: Path,
    data: Data,
    column: Column,
    row: Row,
    flags: TrainFlags,
    device: str,
) -> float:
    """Milliseconds, the median over some images of the fastest of a few passes.

    Raises what opening the run raises.
    """
    budget = parse_budget(row.budget or "auto")
    reader = CacheReader(cache, view=chosen_view(cache, partial(require_order, budget)))
    trained = open_trained(find_trained(run, run.parent), reader.plan, flags)
    trained = adjusted(trained, row.evaluate, reader.plan.grid)
    device = pick_device(device)
    trained = trained.to_answer(device)
    source = open_dataset(column.dataset, root=data.root, split=column.split)
    items = examples(source, [reader])[:IMAGES]
    selector = budget.selector(reader.plan.recipe.order)
    visuals = CachedVisuals([reader], trained.model.projector.needs, selector=selector)
    seconds = []
    for item in items:
        unit = dialogues([item], "full", wording=trained.vocab.wording)[0]
        batch = to_batch([unit], trained.vocab, visuals, once=True)
        batch = batch.to(device, input_dtype(trained.model))
        seconds.append(min(_timed(trained.model, batch) for _ in range(REPEATS)))
    return 1000 * median(seconds)


def _timed(model: RisModel, batch: Batch) -> float:
    with torch.inference_mode(), arithmetic(model):
        began = time.perf_counter()
        masks = model.predict(batch)
        masks[0].sum().item()  # waits for the device
        return time.perf_counter() - began


def answer_flops(recipe: TrainRecipe, places: Places, plan: Plan, tokens: float) -> float:
    """FLOPs of projector and language model for one image and question, mask decoder not counted."""
    return _flops(recipe.model_dump_json(), places, plan.channels, plan.grid, round(tokens))


@cache
def _flops(
    recipe_json: str, places: Places, channels: int, grid: tuple[int, int], tokens: int
) -> float:
    recipe = TrainRecipe.model_validate_json(recipe_json)
    language = outline(recipe, None, language_of(recipe, places)).lm
    made = outline_projector(recipe, channels, grid, language.config.hidden_size)
    return projector_flops(made, tokens, grid) + llm_flops(
        language, [tokens + TEXT], 0, training=False
    )
