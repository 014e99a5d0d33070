"""Validation during training: held-out images, protocol full, fixed wording."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...model.ris import RisModel
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.cache.reader import CacheReader
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, MissingError
from ...pipeline.superpixels.budget.selector import Budget
from ..data.budget_draw import require_budget
from ..data.cache_fit import require_cache
from ..data.collate import CachedVisuals
from ..data.encoder_identity import features_of, require_same_features
from ..data.sam_identity import identity, require_same_sam
from ..evaluation.evaluate import Settings, evaluate
from ..evaluation.protocols import Example, examples, plan
from ..factory import Assembled
from ..metrics import Counts, metrics
from ..options import DataRequest, TrainRequest
from ..trainer.job import Validate
from ..trainer.run_data import Used, used
from .inputs import Opened, source_of
from .newest_cache import recorded


@dataclass(frozen=True)
class HeldOut:
    """Held-out images joined with their cache; `notes` are printed before the first step."""

    used: Used
    reader: CacheReader
    items: Sequence[Example]
    notes: tuple[str, ...]


def open_held_out(request: TrainRequest, opened: Opened) -> HeldOut | None:
    """The images of `--validate`, or None if it is not given.

    The data is that of `--validate-dataset`, else what the cache was made from, else the data
    trained on; its split is the cache's. Raises MissingError, PlanMismatchError, DataError, and
    ConfigError where all of these images are trained on.
    """
    path = request.validate
    if path is None:
        if request.validate_dataset is not None:
            raise ConfigError(
                "--validate-dataset requires --validate CACHE, the cache of its images"
            )
        return None
    if opened.recipe.data.task == "caption":
        raise ConfigError(
            "--validate measures masks, and data.task=caption trains none: leave it out"
        )
    if not holds_cache(path):
        raise MissingError(
            f"--validate {show(str(path), 300)}: no such cache: make it with `svp precompute "
            "--split val`, or with --dataset VAL_FILE for held-out data in a file of its own"
        )
    first, name = opened.readers[0].plan, opened.recipe.model.projector.name
    wanted = features_of(first.recipe, name)

    def require(plan: Plan) -> None:
        require_cache(opened.recipe, plan, path)
        require_budget(opened.recipe.budget, name, plan, path)
        require_same_sam(identity(first), plan, "this run's training")
        require_same_features(wanted, plan, name, "this run's training")

    reader = CacheReader(path, view=chosen_view(path, require), tier=request.tier)
    require(reader.plan)
    if request.validate_dataset is not None:
        data = DataRequest(dataset=request.validate_dataset, root=request.data.root)
    else:
        data = recorded(path) or opened.data
    split = reader.plan.split
    source = source_of(data, None, split)
    items = examples(
        source,
        (reader,),
        opened.recipe.run.validate_images,
        max_failures=request.data.max_failures,
    )
    trained = _trained(opened)
    shared = sum(reader.plan.images[item.entry.row].xxh3 in trained for item in items)
    where = show(str(path), 200)
    if shared == len(items):
        raise ConfigError(
            f"--validate {where}: this cache is of split {split or 'all'}, and every image of it is "
            "trained on: give the cache of images that are not"
        )
    notes = [f"held-out: {counted(len(items), 'image')} of {source.name}, split {split or 'all'}"]
    if shared:
        notes.append(f"held-out: {shared} of these images are also trained on: scores are too high")
    return HeldOut(used(data, split, {path: reader.plan.id}), reader, items, tuple(notes))


def scorer(held: HeldOut, made: Assembled, device: str, budget: Budget) -> Validate:
    """Metrics of the model on the held-out images, fractions by name; NaN is left out."""
    units = plan(held.items, "full", wording=made.vocab.wording)
    selector = budget.selector(held.reader.plan.recipe.order)
    visuals = CachedVisuals((held.reader,), made.model.projector.needs, selector=selector)

    def validate(model: RisModel) -> Mapping[str, float]:
        rows = evaluate(model, units, made.vocab, visuals, Settings(device=device))
        table = torch.tensor([(r.intersection, r.union, r.target) for r in rows]).T.numpy()
        scores = metrics(Counts(*table))
        return {name: value for name, value in scores.items() if math.isfinite(value)}

    return validate


def _trained(opened: Opened) -> set[str]:
    """Content digests of the photographs with sentences to train on."""
    ids = {row.image_id for row in opened.source.sentences}
    images = (image for reader in opened.readers for image in reader.plan.images)
    return {image.xxh3 for image in images if image.image_id in ids} - {""}
