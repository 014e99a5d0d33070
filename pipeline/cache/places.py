"""Local paths of a cache's images and expressions: `logs/places.json`.

Written by `precompute`, read by commands that are given a cache and no data set. A hint, never part
of a digest: a cache that was moved, or made by an older svp, may have none or a stale one.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import CacheError, MissingError
from ..store import Place, is_url, open_store
from .layout import LOGS

PLACES = "places.json"
MAX_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class DataPlaces:
    """The data request a cache was made from; the names are those of the options of `precompute`.

    dataset     absolute path, or names of REFER sets under `root`
    root        absolute folder the names are looked for in
    images      absolute folder or address of the photographs, as found or as named
    generated   whether the photographs are scenes this package drew
    limit       only the first so many images were taken, as `--limit` says; None: all
    rehearsal   whether it was made in a rehearsal, with stand-ins for the weights
    size        recipe that --size named; None: none was named
    command     words after `svp precompute` of the command that made it; empty: not by a command
    """

    dataset: str
    images: Path
    split: str | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    exclude_eval_images: bool = False
    generated: bool = False
    limit: int | None = None
    rehearsal: bool = False
    size: str | None = None
    command: tuple[str, ...] = ()


class _File(BaseModel):
    """Schema of places.json. Fields of a later svp are ignored: the file is only a hint."""

    model_config = ConfigDict(extra="ignore")

    dataset: Annotated[str, Field(min_length=1, max_length=4096)]
    images: Path
    split: Annotated[str, Field(max_length=64)] | None = None
    root: Path | None = None
    split_by: Annotated[str, Field(max_length=64)] | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    exclude_eval_images: bool = False
    generated: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    rehearsal: bool = False
    size: Literal["tiny", "small", "paper", "world2"] | None = None
    command: Annotated[
        tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=200)
    ] = ()


def absolute_data(dataset: str, root: Path | None) -> tuple[str, Path | None]:
    """`dataset` and `root` without the working folder: a path is made absolute, of names the root."""
    if is_url(dataset):
        return dataset, None
    if os.path.exists(dataset):
        return os.path.abspath(dataset), None if root is None else root.absolute()
    return dataset, (root or Path()).absolute()


def write_places(cache: Place, places: DataPlaces) -> None:
    """Replace the record in `cache`, which must be there. Raises CacheError if it cannot be written."""
    raw = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(places).items()}
    if is_url(places.images):
        raw["images"] = open_store(places.images).where()
    text = json.dumps(raw, indent=1, sort_keys=True) + "\n"
    open_store(cache).replace(f"{LOGS}/{PLACES}", text.encode(), label="places")


def copy_places(cache: Place, out: Place) -> None:
    """The record of `cache` in `out` too, if it has one. Raises CacheError."""
    key = f"{LOGS}/{PLACES}"
    with suppress(MissingError):
        open_store(out).replace(key, open_store(cache).read(key, MAX_BYTES), label="places")


def read_places(cache: Place) -> DataPlaces | None:
    """Paths that `cache` was made from, or None without a readable record; no path is checked."""
    raw = _raw(cache)
    try:
        return DataPlaces(**dict(_File.model_validate(raw)))
    except ValidationError:
        return None


def limit_of(cache: Place) -> int | None:
    """Number of images that `cache` was limited to; None: all, or unknown."""
    places = read_places(cache)
    return places.limit if places else None


def size_of(caches: Sequence[Place]) -> str | None:
    """The recipe that --size named when these caches were made; None: none, or not the same."""
    sizes = {places.size if (places := read_places(cache)) else None for cache in caches}
    return sizes.pop() if len(sizes) == 1 else None


def rehearsed(cache: Place) -> bool:
    """Whether `cache` says that it was made in a rehearsal."""
    places = read_places(cache)
    return places is not None and places.rehearsal


def image_root_of(cache: Place) -> Path | None:
    """The folder of the photographs `cache` was made from, if it is still there; or their address,
    which is not looked at.
    """
    raw = _raw(cache)
    root = raw.get("images") if isinstance(raw, dict) else None
    if not isinstance(root, str):
        return None
    return Path(root) if is_url(root) or Path(root).is_dir() else None


def _raw(cache: Place) -> Any:
    try:
        return json.loads(open_store(cache).read(f"{LOGS}/{PLACES}", MAX_BYTES).decode("utf-8"))
    except (CacheError, MissingError, ValueError, RecursionError):
        return None
