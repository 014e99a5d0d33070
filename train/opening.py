"""From the command line's words to recipe, caches, sentences and their stream, checked together.

Without a cache or a data set the embedded default is taken: the generated scenes and their cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from ..pipeline.errors import MissingError
from ..pipeline.records import Where
from ..pipeline.run.launch import image_root_of
from ..pipeline.sources import Source, open_source
from ..pipeline.store.reader import CacheReader
from ..pipeline.text import show
from .assemble import require_cache
from .defaults import DATA, cache_of
from .feed.fill import VisualSource
from .feed.live import LiveReader
from .feed.loader import Draws, Loader, Share
from .feed.table import ExpressionTable
from .feed.table_build import open_table
from .recipe import TrainRecipe
from .settings import Places, TrainFlags, resolve_train
from .text.tokens import Vocabulary

CACHE = cache_of("train")
TABLES = Path("caches/tables")


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Which sentences of which photographs; None means the embedded default."""

    dataset: str | None = None
    images: Path | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the user asked for.

    caches     of the training split; none: the embedded default's
    validate   cache of the val split, for scores while training
    live       encoders in the loop instead of the caches' rows
    partial    accept images that the caches do not hold
    resume     None, "auto", a run folder or a checkpoint
    hint       the command line, told when the run is stopped
    """

    caches: tuple[Path, ...] = ()
    data: DataRequest = field(default_factory=DataRequest)
    size: str = "tiny"
    recipe_file: Path | None = None
    flags: TrainFlags = field(default_factory=TrainFlags)
    overrides: tuple[str, ...] = ()
    validate: Path | None = None
    live: bool = False
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    partial: bool = False
    runs: Path = Path("runs")
    resume: str | None = None
    device: str = "auto"
    deterministic: bool = False
    skip_nonfinite: int = 0
    hint: str = "svp train --resume auto"
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Opened:
    """Recipe and data of a request, checked against each other; no weights read yet."""

    recipe: TrainRecipe
    places: Places
    readers: tuple[CacheReader, ...]
    source: Source

    def table(self, partial: bool, say: Callable[[str], None]) -> ExpressionTable:
        """The expression table, made on the first run."""
        return open_table(
            TABLES,
            [self.source],
            self.readers,
            training=True,
            datasets=self.recipe.data.datasets,
            partial=partial,
            say=say,
        )


def open_training(request: TrainRequest, device: str, *, weights: bool = True) -> Opened:
    """Recipe, caches and sentences. Raises ConfigError, MissingError, PlanMismatchError, DataError.

    weights  False: those of the model need not be there
    """
    recipe, places = resolve_train(
        request.size, request.recipe_file, request.flags, request.overrides, weights=weights
    )
    paths = request.caches or (CACHE,)
    for path in paths:
        if not path.is_dir():
            raise MissingError(
                f"{show(str(path), 300)}: no such cache: make it with "
                "`svp precompute --split train --store-sam-embeddings`, or name one with "
                "--from-cache PATH"
            )
    readers = tuple(open_reader(path, request, device) for path in paths)
    for reader in readers:
        require_cache(recipe, reader.plan)
    return Opened(recipe, places, readers, source_of(request.data, recipe, recipe.data.split))


def pick_device(name: str) -> str:
    """`auto` becomes `cuda` where there is one; in a run of several processes each takes its own."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


class Looking(Protocol):
    """What a request says of how photographs are seen; see `TrainRequest`."""

    @property
    def data(self) -> DataRequest: ...

    @property
    def live(self) -> bool: ...

    @property
    def sam_weights(self) -> Path | None: ...

    @property
    def encoder_weights(self) -> Path | None: ...


def open_reader(path: Path, request: Looking, device: str) -> CacheReader:
    """The cache at `path`, or its live counterpart. Raises MissingError, CacheError."""
    if not request.live:
        return CacheReader(path)
    photos = request.data.images or image_root_of(path)
    if photos is None:
        raise MissingError(f"--live: the photographs of {show(str(path), 300)} are not where they "
                           "were: name their folder with --images")  # fmt: skip
    where = Where(photos, request.sam_weights, request.encoder_weights)
    return LiveReader(path, where, device)


def source_of(data: DataRequest, recipe: TrainRecipe, split: str) -> Source:
    """The photographs and sentences of one split. Raises what `open_source` raises."""
    dataset = data.dataset or str(DATA)
    return open_source(
        dataset,
        images=data.images,
        split=split,
        root=data.root,
        split_by=data.split_by,
        allow_google=data.allow_google,
        allow_counts=data.allow_counts,
        exclude_eval_images=recipe.data.exclude_eval_images and split == "train",
    )


def stream_of(
    recipe: TrainRecipe,
    table: ExpressionTable,
    visuals: VisualSource,
    vocab: Vocabulary,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """The recipe's stream of global batches, the share of one rank."""
    draws = Draws(
        seed=recipe.seed,
        global_batch=recipe.global_batch,
        sampling=recipe.data.sampling,
        sentences=recipe.data.sentences_per_image,
    )
    share = Share(
        micro_batch=recipe.run.micro_batch, rank=rank, world=world, threads=recipe.run.threads
    )
    return Loader(table, visuals, vocab, draws, share)
