"""Default cache and data of a training run: the newest train cache and its source.

`svp precompute` leaves the request for its data beside each cache (`logs/places.json`), so that
`svp train --from-cache` trains on exactly what was cut, without naming the data again.
"""

import hashlib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from ...pipeline.cache.layout import LOGS, PLAN, VIEWS, holds_cache
from ...pipeline.cache.places import PLACES, absolute_data, read_places, size_of
from ...pipeline.cache.plan import Plan
from ...pipeline.cache.reader import CacheReader
from ...pipeline.display import show
from ...pipeline.errors import CacheError, ConfigError, MissingError
from ...pipeline.store import Place, is_url
from ..options import DataRequest
from ..trainer.run_data import RunData

log = logging.getLogger(__name__)

CACHES = Path("caches")
MAKE = "svp precompute --split train"
NONE_THERE = (
    f"make one with `{MAKE}` (generated scenes; your own data with --dataset), "
    "name one with --from-cache PATH, or try `svp quickstart`"
)


def no_cache(path: Place, split: str) -> MissingError:
    """That no cache, of this split, lies where one was named."""
    remedy = NONE_THERE.replace(MAKE, f"svp precompute --split {show(split)}")
    return MissingError(f"{show(str(path), 300)}: no such cache: {remedy}")


def newest_cache(split: str, dataset: str | None = None, root: Path = CACHES) -> Path:
    """The newest complete cache of `split` in `root`, made from `dataset` if that is given.

    Logs which it is, and which newer ones are not finished. Raises MissingError if there is none.
    """
    wanted = [
        path
        for path in sorted(root.glob(f"*/{PLAN}"), key=_time, reverse=True)
        if _split(path) == split and (dataset is None or _made_from(path.parent, dataset))
    ]
    for path in wanted:
        cache = path.parent
        if CacheReader(cache).complete:
            log.info(f"cache: {cache}, the newest of split {split}")
            return cache
        log.info(
            f"{cache}: newer, but not finished: skipped (re-run its `svp precompute` to finish it)"
        )
    of = f" made from {show(dataset)}" if dataset else ""
    remedy = NONE_THERE.replace(MAKE, f"svp precompute --split {split}")
    if dataset:
        words = ["svp", "precompute", "--split", split, "--dataset", dataset]
        remedy = f"make one with `{shlex.join(words)}`, or name one with --from-cache PATH"
    raise MissingError(
        f"no complete cache of split {split}{of} in {show(str(root), 300)}: {remedy}"
    )


def data_of(caches: Sequence[Place], asked: DataRequest) -> DataRequest:
    """Default data request of caches: the data they were made from.

    What is asked for beside (`images`, `split_by`, ...) is kept. Raises MissingError if a cache does
    not say, ConfigError if they differ.
    """
    if asked.dataset is not None:
        return asked
    found = {path: recorded(path) for path in caches}
    requests = set(found.values())
    if len(requests) > 1:
        each = "; ".join(f"{path}: {show(r.dataset if r else None)}" for path, r in found.items())
        raise ConfigError(f"the caches were made from different data ({each}): name --dataset")
    (made,) = requests
    if made is None or made.dataset is None:
        raise MissingError(
            f"{show(str(caches[0]), 300)} does not say which data it was made from: name it with "
            "--dataset (and --root, --images as for `svp precompute`)"
        )
    return over(made, asked)


def over(made: DataRequest, asked: DataRequest) -> DataRequest:
    """`made` with what is asked for in its place: a photographs' folder that was moved, say."""
    given = {f.name: getattr(asked, f.name) for f in fields(asked)}
    return replace(made, **{n: v for n, v in given.items() if v is not None and v is not False})


def recorded(cache: Place) -> DataRequest | None:
    """The data request a cache was made from, if it says."""
    places = read_places(cache)
    if places is None:
        return None
    known = {f.name for f in fields(places)}
    names = (f.name for f in fields(DataRequest) if f.name in known)
    return DataRequest(**{name: getattr(places, name) for name in names})


def chosen_size(
    asked: str | None, caches: Sequence[Place], known: RunData | None = None
) -> str | None:
    """The size that --size names, else the one that a run or these caches were made with, which is
    logged; None: none was named then either.
    """
    if asked is not None:
        return asked
    made, who = (known.size if known else None), "run"
    if made is None:
        made, who = size_of(caches), "cache"
    if made is not None:
        log.info(f"size: {made}, as the {who} was made")
    return made


def require_images(asked: DataRequest) -> None:
    """Raise MissingError if the image folder that was named is none.

    One that a cache remembers may be gone: the cache has outlived its photographs.
    """
    images = asked.images
    if images is not None and not is_url(images) and not images.is_dir():
        raise MissingError(f"--images {show(str(images), 300)}: no image folder")


def _made_from(cache: Path, dataset: str) -> bool:
    made = recorded(cache)
    return made is not None and made.dataset == absolute_data(dataset, None)[0]


def _split(plan: Path) -> str | None:
    try:
        return Plan.load(plan.parent).split
    except CacheError:
        return None


def _time(plan: Path) -> int:
    """Time of the last change of a cache."""
    places = plan.parent / LOGS / PLACES
    return (places if places.exists() else plan).stat().st_mtime_ns


CACHE_FOLDERS = ("caches", "caches/reproduce")


def find_cache(wanted: str, known: RunData | None = None) -> Place:
    """The cache with this id: one the run read, or looked for in `CACHE_FOLDERS`. Raises MissingError."""
    for used in (known.training, known.validation) if known else ():
        for held in used.caches if used else ():
            if held.id == wanted and holds_cache(held.path):
                return held.path
    for place in CACHE_FOLDERS:
        for cache in sorted(plan.parent for plan in Path(place).glob(f"*/{PLAN}")):
            for plan in (cache / PLAN, *cache.glob(f"{VIEWS}/*.json")):
                if hashlib.sha256(plan.read_bytes()).hexdigest() == wanted:
                    return cache
    raise MissingError(
        f"cache {show(wanted[:12])}, which the results were made with, is not in "
        f"{' or '.join(CACHE_FOLDERS)}: name it with --from-cache"
    )
