"""Open the caches, or the photographs, that an evaluation reads, and say which data they are of."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.cache.row_tier import require_tier
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, MissingError
from ...pipeline.precompute.planner import Content
from ...pipeline.process import pick_device
from ...pipeline.store import Place, as_place
from ..cli_defaults import DATA, cache_of
from ..distributed import decided
from ..evaluation.load_trained import (
    Found,
    budget_of,
    data_of_run,
    find_trained,
    require_budget_of,
    require_fit,
)
from ..evaluation.published_models import Published
from ..evaluation.unseen import Encoders, live_readers
from ..trainer.run_data import RunData, split_to_score
from .eval_request import EvalRequest
from .inputs import ALL, DataRequest, open_reader, source_of
from .newest_cache import newest_cache, over, recorded


def default_split(
    caches: Sequence[Place],
    checkpoint: Place | None,
    runs: Place,
    published: str | None,
) -> str:
    """The split that is evaluated where none is named: that of the caches, else the run's."""
    splits = {CacheReader(path).plan.split for path in caches}
    if len(splits) == 1:
        return splits.pop() or ALL
    return split_to_score(data_of_run(find_trained(checkpoint, runs, published))) or ALL


def open_caches(
    request: EvalRequest, device: str, found: Found, known: RunData | None = None
) -> dict[str, tuple[RowReader, ...]]:
    """The readers of each split, live or not. Raises MissingError, CacheError.

    A cache goes to the split its plan names; one without a split (of a plain folder, of a whole
    set) goes to every split. A single split takes all caches that are named for it.
    """
    paths = request.caches or tuple(
        as_place(decided(f"cache of {split}", lambda: str(_cache_for(split, request, known))))  # noqa: B023
        for split in request.splits
    )
    names = ",".join(request.splits)
    for path in paths:
        if not holds_cache(path):
            raise MissingError(
                f"{show(str(path), 300)}: no such cache: make it with `svp precompute --split "
                f"{request.splits[0]}`, or name one with --from-cache PATH"
            )
    require_tier(request.tier, paths, live=request.live)
    budget = budget_of(found, request.budget)
    fits = partial(require_fit, found, decoder=request.decoder)
    checks = fits, partial(require_budget_of, found, budget)
    readers = tuple(open_reader(path, request, device, *checks) for path in paths)
    if request.tier is not None:
        for reader in readers:
            request.tier.require_batch(reader.plan, request.batch)
    if len(request.splits) == 1:
        return {request.splits[0]: readers}
    by_split = {
        split: tuple(reader for reader in readers if reader.plan.split in (split, ""))
        for split in request.splits
    }
    for split, own in by_split.items():
        if not own:
            have = ", ".join(f"{show(str(r.path), 200)} is of {r.plan.split}" for r in readers)
            raise MissingError(
                f"--split {names}: no cache of {split} is named ({have}): make it with `svp "
                f"precompute --split {split}`, and name it with --from-cache"
            )
    return by_split


def live_photographs(
    request: EvalRequest, found: Published, scratch: Path
) -> dict[str, tuple[RowReader, ...]]:
    """The photographs of each split, seen as a published model sees them."""
    require_tier(request.tier, (), live=True)
    device = pick_device(request.device)
    encoders = Encoders(
        device=device,
        own_sam=request.own_sam,
        sam=request.sam_weights,
        encoder=request.encoder_weights,
    )
    if request.data.dataset is None and not DATA.exists():
        raise ConfigError(
            "--published without caches reads photographs, expressions and masks: name them with "
            "--dataset (refcoco with --root FOLDER, a JSONL or parquet file, a folder of `svp data "
            "synth`), or caches with --from-cache"
        )
    splits = {}
    for name in request.splits:
        source = source_of(request.data, None, name)
        if not source.sentences:
            raise ConfigError(
                f"{show(request.data.dataset or source.name)}, split {show(name)}: photographs "
                "without expressions: there is nothing to evaluate. It takes image, expression and "
                "mask: JSONL, REFER or parquet (docs/data.md)"
            )
        content = Content(source.images, name, source.sha256, source.listed)
        splits[name] = (content, source.image_root)
    return {
        name: (reader,) for name, reader in live_readers(found, splits, scratch, encoders).items()
    }


def _cache_for(split: str, request: EvalRequest, known: RunData | None) -> Place:
    """The run's own cache of a split, else the newest of its data, else the embedded default's."""
    mine = known.of("" if split == ALL else split) if known else None
    if mine and request.data.dataset is None and mine.caches and holds_cache(mine.caches[0].path):
        return mine.caches[0].path
    dataset = request.data.dataset or (known.training.dataset if known else None)
    if dataset is not None:
        return newest_cache("" if split == ALL else split, dataset)
    return cache_of(split)


def data_for(
    asked: DataRequest, split: str, readers: Sequence[RowReader], known: RunData | None
) -> DataRequest:
    """Data of the request, else of the caches, else of the run."""
    if asked.dataset is not None:
        return asked
    made = {recorded(reader.path) for reader in readers} - {None}
    if len(made) == 1 and (only := made.pop()) is not None:
        return over(only, asked)
    if known is not None:
        return over((known.of("" if split == ALL else split) or known.training).request, asked)
    return asked
