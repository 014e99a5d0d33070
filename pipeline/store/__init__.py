"""Stores: a folder, a bucket of an object storage service, or memory behind one interface."""

import re
from pathlib import Path

from ..display import show
from ..errors import ConfigError
from ..io.paths import expand
from .folder import FolderStore, open_folder
from .memory import MemoryStore
from .object import ObjectStore
from .object_client import SCHEMES, RetryPolicy, split_address
from .protocol import (
    ChangedError,
    Created,
    CutShortError,
    NoBucketError,
    OtherBytesError,
    Parts,
    Read,
    Stat,
    Store,
    WholeFile,
    check_key,
    pieces,
    this_writer,
    writer_is_gone,
)

__all__ = [
    "ChangedError",
    "Created",
    "CutShortError",
    "FolderStore",
    "MemoryStore",
    "NoBucketError",
    "ObjectStore",
    "OtherBytesError",
    "Parts",
    "Place",
    "Read",
    "RetryPolicy",
    "Stat",
    "Store",
    "WholeFile",
    "as_place",
    "check_key",
    "is_url",
    "open_folder",
    "open_store",
    "pieces",
    "this_writer",
    "writer_is_gone",
]

Place = Path | Store  # a folder, or what `open_store` gives for an address

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?(.*)", re.DOTALL)  # `Path` leaves one slash


def is_url(place: str | Path) -> bool:
    """Whether `place` is an address such as s3://bucket/caches, not a path."""
    return bool(_URL.fullmatch(str(place)))


def as_place(named: str | Place) -> Place:
    """The place that a path or an address names: a path, or the store. Raises as `open_store`."""
    if isinstance(named, str | Path) and not is_url(named):
        return expand(named)
    store = open_store(named)
    return store.root if isinstance(store, FolderStore) else store


def open_store(place: str | Place, policy: RetryPolicy | None = None) -> Store:
    """The store at a path or an address, or `place` itself if it is one; touches nothing.

    policy  of the requests to an object store
    Raises ConfigError for an address of a kind that no store serves.
    """
    if not isinstance(place, str | Path):
        return place
    found = _URL.fullmatch(str(place))
    if not found:
        return open_folder(expand(place))
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if scheme == "memory":
        name, _, prefix = rest.partition("/")
        store = MemoryStore(name)
        return store.sub(prefix) if prefix else store
    if scheme == "file":
        return open_folder(Path("/" + rest.lstrip("/")))
    if scheme in SCHEMES:
        address, prefix = split_address(scheme, rest)
        bucket = ObjectStore(address, policy=policy or RetryPolicy())
        return bucket.sub(prefix) if prefix else bucket
    raise ConfigError(
        f"{show(f'{scheme}://', 300)} is no store: give a folder, s3://bucket/prefix, "
        "gs://bucket/prefix or az://container/prefix"
    )
