"""Resolve command-line options into recipe, caches, expressions and data stream.

Without a cache the newest one of the training split is taken, without a data set what it was made
from.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from ...model.projectors import projector_class
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.places import image_root_of
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.cache.row_tier import RowTier, require_tier
from ...pipeline.datasets import Source, open_dataset
from ...pipeline.datasets.problems import Faults, merged
from ...pipeline.display import show
from ...pipeline.errors import CacheError, ConfigError, MissingError
from ...pipeline.io.atomic import check_writable
from ...pipeline.plugins import plugin_words
from ...pipeline.precompute.toy_guard import require_real_models
from ...pipeline.recipe import OrderConfig, Recipe
from ...pipeline.records import LocalPaths
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.selector import require_order
from ..cli_defaults import DATA, cache_of
from ..data.budget_draw import BudgetDraw, require_budget
from ..data.build_table import check_left_out, open_table
from ..data.cache_fit import require_cache
from ..data.collate import CachedVisuals
from ..data.expression_table import ExpressionTable
from ..data.length_check import TokenBudget
from ..data.live_cache import LiveReader
from ..data.loader import Draws, Loader, RankSlice
from ..data.sam_identity import identity, require_same_sam
from ..data.tokenizer import Vocabulary
from ..distributed import decided
from ..options import DataRequest, Places, TrainRequest, resolve_plain, resolve_train
from ..recipe import TrainRecipe
from .newest_cache import chosen_size, data_of, newest_cache, no_cache, require_images

__all__ = ["ALL", "CACHE", "TABLES", "DataRequest", "Looking", "Opened", "TrainRequest", "open_reader",
           "open_training", "require_models", "source_of", "stream_of"]  # fmt: skip

ALL = "all"  # the split that is the whole data set
CACHE = cache_of("train")
TABLES = Path("caches/tables")


@dataclass(frozen=True)
class Opened:
    """Recipe and data of a request, checked against each other; no weights read yet.

    data  the request's, or what the caches were made from
    """

    recipe: TrainRecipe
    places: Places
    readers: tuple[RowReader, ...]
    source: Source
    data: DataRequest

    def without_sentences(self) -> "Opened":
        """The same without what the table has: the records of the source, which stays by its name."""
        bare = replace(self.source, images=(), sentences=(), annotations={})
        return replace(self, source=bare)

    def table(self, partial: bool, runs: Path) -> ExpressionTable:
        """The expression table, made on the first run; beside the runs where that is the only
        place that can be written.
        """
        try:
            check_writable(TABLES)
            tables = TABLES
        except CacheError:
            tables = runs / "tables"
        return open_table(
            tables,
            [self.source],
            self.readers,
            training=True,
            rejection=self.recipe.model.rejection,
            captions=self.recipe.data.task == "caption",
            datasets=self.recipe.data.datasets,
            partial=partial,
            max_failures=self.data.max_failures,
        )


def with_caches(request: TrainRequest) -> TrainRequest:
    """The request with the caches that it reads, and the size they were made with if it names none.

    Raises MissingError, and ConfigError for a recipe that is none.
    """
    asked = (request.size, request.recipe_file, request.flags, request.overrides)
    paths = request.caches
    if not paths:  # the newest is another one where a process sees another folder
        wanted = (resolve_plain(*asked).data.split, request.data.dataset)
        paths = (Path(decided("newest cache", lambda: str(newest_cache(*wanted)))),)
    for path in paths:
        if not holds_cache(path):
            raise no_cache(path, resolve_plain(*asked).data.split)
    return replace(request, caches=paths, size=chosen_size(request.size, paths))


def open_training(request: TrainRequest, device: str, *, weights: bool = True) -> Opened:
    """Recipe, caches and sentences. Raises ConfigError, MissingError, PlanMismatchError, DataError.

    weights  False: those of the model need not be there
    """
    # The recipe without its weights first: hashing those may take minutes, and a wrong field or a
    # missing cache is told before.
    require_images(request.data)
    request = with_caches(request)
    asked = (request.size, request.recipe_file, request.flags, request.overrides)
    recipe, places = resolve_train(*asked, weights=False)
    paths = request.caches
    held_out = () if request.validate is None else (request.validate,)
    require_tier(request.tier, (*paths, *held_out), live=request.live)

    # The caches say which data they were made from, unless the request names it.
    data = data_of(paths, request.data)
    checks = partial(require_cache, recipe), partial(_require_budget, recipe)
    readers = tuple(open_reader(path, request, device, *checks) for path in paths)
    source = source_of(data, recipe, recipe.data.split)
    if not source.sentences:
        raise ConfigError(
            f"{show(data.dataset or source.name)}: photographs without expressions: there is nothing "
            "to train on, whatever the cache holds. Training reads image, expression and mask: "
            "JSONL, REFER or parquet (docs/data.md); `svp data check` tells what is there"
        )

    # All caches must be what the recipe's encoder makes, and of one SAM among themselves.
    for path, reader in zip(paths, readers, strict=True):
        require_cache(recipe, reader.plan, path)
        _require_budget(recipe, reader.plan, path)
        require_same_sam(identity(readers[0].plan), reader.plan, f"cache {readers[0].plan.id[:12]}")
    if weights:
        recipe, places = resolve_train(*asked)
    recipe = settled(recipe, readers[0].plan.recipe.order)
    for reader in readers:
        require_order(recipe.budget, reader.plan, reader.path)
    require_models(recipe, readers, source, request.size)
    if request.limit is not None:
        source = first_images(source, readers, request.limit)
    return Opened(recipe, places, readers, source, data)


def _require_budget(recipe: TrainRecipe, plan: Plan, cache: Place | None = None) -> None:
    require_budget(recipe.budget, recipe.model.projector.name, plan, cache)


def settled(recipe: TrainRecipe, order: OrderConfig | None) -> TrainRecipe:
    """The recipe whose budget names the prior of the caches' order, and the threshold of a mean.

    A projector that meets another budget each step is told which, unless its options say otherwise.
    """
    if recipe.budget.auto or order is None:
        return recipe
    budget, model = recipe.budget.settled(order), recipe.model
    if budget.drawn and "counted" in projector_class(model.projector.name).options():
        told = model.projector.model_copy(
            update={"options": {"counted": True} | model.projector.options}
        )
        model = model.model_copy(update={"projector": told})
    return recipe.model_copy(update={"budget": budget, "model": model})


def next_commands(
    request: TrainRequest, recipe: TrainRecipe, example: tuple[str, str], run: str
) -> tuple[str, ...]:
    """The commands that use the finished run, by folder or address; `example` is of `example_of`."""
    if recipe.data.task == "caption":  # a start for others, not yet a model that answers with masks
        return (shlex.join(["svp", "export", "exports/aligned", "--checkpoint", run]),)
    end = ["--checkpoint", run, *plugin_words()]
    picture, said = example
    return (
        shlex.join(["svp", "eval", *end]),
        shlex.join(["svp", "predict", *end, "--", picture, said]),
    )


def example_of(source: Source, table: ExpressionTable) -> tuple[str, str]:
    """A photograph's path and an expression of the data, for the commands of a report."""
    first = table.entry(0).image_id
    paths = (image.path for image in source.images if image.image_id == first)
    photo = source.image_root / next(paths, "")
    picture = os.path.relpath(photo) if photo.is_file() else "PHOTO"
    return picture, table.sentences(0)[0].text


def first_images(source: Source, readers: Sequence[RowReader], limit: int) -> Source:
    """The source with the sentences of its first images, by id, that a cache holds."""
    held = {image_id for reader in readers for image_id in reader.index_of}
    ids = sorted({row.image_id for row in source.sentences} & held)[:limit]
    kept = frozenset(ids)
    return replace(source, sentences=tuple(s for s in source.sentences if s.image_id in kept))


def require_models(
    recipe: TrainRecipe, readers: Sequence[RowReader], source: Source, size: str | None
) -> None:
    """Refuse toy models on this data, of the recipe or of its caches; see `require_real_models`."""
    for reader in readers:
        require_real_models(
            source.name, generated=source.generated, size=size,
            precompute=reader.plan.recipe, language_model=recipe.model.init,
            instead="a cache of `svp precompute --size small` (or paper) and a model trained on it "
            "with `svp train --size small` (or paper)",
        )  # fmt: skip


class Looking(Protocol):
    """Preprocessing options of a request; see `TrainRequest`."""

    @property
    def data(self) -> DataRequest: ...

    @property
    def live(self) -> bool: ...

    @property
    def tier(self) -> RowTier | None: ...

    @property
    def sam_weights(self) -> Path | None: ...

    @property
    def encoder_weights(self) -> Path | None: ...


def open_reader(
    path: Place, request: Looking, device: str, *refuse: Callable[[Plan], object]
) -> RowReader:
    """The cache at `path`, or its live counterpart. Raises MissingError, CacheError.

    refuse  raise an SvpError for a plan that cannot be read: of a cache with several, the oldest
            that they take is read
    """
    view = chosen_view(path, *refuse)
    if not request.live:
        return CacheReader(path, view=view, tier=request.tier)
    photos = request.data.images or image_root_of(path)
    if photos is None:
        raise MissingError(f"--live: the photographs of {show(str(path), 300)} are not where they "
                           "were: name their folder with --images")  # fmt: skip
    where = LocalPaths(photos, request.sam_weights, request.encoder_weights)
    require_read(Plan.load(path, view).recipe, where)
    return LiveReader(path, where, device, view=view)


def require_read(recipe: Recipe, where: LocalPaths) -> None:
    """ConfigError for a weight file that the user names and the recipe does not read."""
    named = (
        ("--sam-weights", where.sam, recipe.superpixels.weights),
        ("--encoder-weights", where.encoder, recipe.features.weights),
    )
    for flag, path, ref in named:
        if path is not None and ref.kind in ("shipped", "random"):
            raise ConfigError(
                f"{flag} {show(str(path), 200)} would not be read: the recipe's weights are {ref}; leave "
                "it out, or make a cache with these weights"
            )


def source_of(data: DataRequest, recipe: TrainRecipe | None, split: str) -> Source:
    """The photographs and sentences of one split, "" or "all" for the whole; without a recipe
    none is left out.

    Raises what `open_dataset` raises.
    """
    dataset = data.dataset or str(DATA)
    return open_dataset(
        dataset,
        images=data.images,
        photos=False,
        split=None if split in ("", ALL) else split,
        root=data.root,
        split_by=data.split_by,
        allow_google=data.allow_google,
        allow_counts=data.allow_counts,
        allow_empty=data.allow_empty or (recipe is not None and recipe.data.task == "caption"),
        max_failures=data.max_failures,
        exclude_eval_images=recipe is not None
        and recipe.data.exclude_eval_images
        and split == "train",
    )


def stream_of(
    recipe: TrainRecipe,
    table: ExpressionTable,
    visuals: CachedVisuals,
    vocab: Vocabulary,
    rank: int = 0,
    world: int = 1,
    *,
    fixed: int | None = None,
    max_failures: int | None = None,
) -> Loader:
    """The recipe's stream of global batches, the share of one rank.

    fixed         visual tokens of every image, if the projector's number is fixed
    max_failures  as of `open_table`: sentences that are too long for the model count too

    Raises DataError if more sentences are too long than that.
    """
    draws = Draws(
        seed=recipe.seed,
        global_batch=recipe.global_batch,
        sampling=recipe.data.sampling,
        sentences=recipe.data.sentences_per_image,
        order=recipe.data.order,
        shard=min(cache.plan.shard_size for cache in visuals.caches),
        captions=recipe.data.task == "caption",
        budget=BudgetDraw.of(recipe.seed, visuals.caches) if recipe.budget.drawn else None,
    )
    share = RankSlice(
        micro_batch=recipe.run.images,
        rank=rank,
        world=world,
        threads=recipe.run.threads,
        pinned=visuals.memory.pinned,
    )
    loader = Loader(table, visuals, vocab, draws, share, budget=TokenBudget(visuals.caches, fixed))
    bad = loader.too_long.settle(table.sentence_count, None)
    images = table.left_out.get("images in quarantine", 0)
    known = Faults(table.left_out.get("bad records", 0))
    check_left_out(merged((known, bad)), images, max_failures)
    return loader
