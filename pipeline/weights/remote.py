"""Weights at an address of object storage: one local copy per machine and version.

A copy is found by the address and the version (ETag) of the object, so a replaced object is fetched
again. Processes of one machine wait for the one that fetches. The digest of a recipe is compared
with the copy by those that load it, as with any other file.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..display import show, size
from ..errors import CacheError, MissingError
from ..io.atomic import PARTIAL, make_folders, sync_folder, writing
from ..io.binary import write_all
from ..io.paths import user_cache
from ..store import Stat, Store, open_store, pieces

KINDS = (".json", ".safetensors", ".bin", ".model", ".pth", ".pt")  # files of a model folder

_log = logging.getLogger("svp")


def local_copy(address: str | Path, flag: str) -> Path:
    """The file or folder at `address` (s3://bucket/sam.pth) as a path of this machine.

    flag  the option that named it, for messages
    Raises MissingError if nothing is there, CacheError if it cannot be fetched or stored,
    ConfigError for an address that is none of an object.
    """
    open_store(address)  # refuses credentials, of which the parts below would lose the sign
    above, _, name = str(address).rstrip("/").rpartition("/")
    store = open_store(above)
    found = _files(store, name)
    if not found:
        raise MissingError(f"{flag} {show(store.where(name), 300)}: no such weight file or folder")
    version = [store.where(), *(f"{key} {stat.tag}" for key, stat in found.items())]
    digest = hashlib.sha256("\n".join(version).encode()).hexdigest()[:16]
    folder = copies_folder() / digest
    place = folder / name
    if place.exists():
        return place
    make_folders(folder)
    with _alone(folder / "lock") as alone:
        if alone:
            for left in folder.glob(f"*{PARTIAL}"):  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not place.exists():  # another process was faster
            _fetch_all(store, found, folder, place)
    return place


def copies_folder() -> Path:
    """The folder of fetched copies, in the user's cache. Raises MissingError without one."""
    cache = user_cache()
    if cache is None:
        raise MissingError(
            "no place for fetched weights: this user has no home; set XDG_CACHE_HOME to a folder"
        )
    return cache / "svp" / "weights" / "fetched"


def _files(store: Store, name: str) -> dict[str, Stat]:
    """The file `name`, or those of the model folder `name`; empty if there is neither."""
    with suppress(MissingError):
        return {name: store.stat(name)}
    keys = sorted(key for key, _ in store.sizes(name))
    flat = [key for key in keys if key.count("/") == name.count("/") + 1 and key.endswith(KINDS)]
    return {key: store.stat(key) for key in flat}


def _fetch_all(store: Store, found: dict[str, Stat], folder: Path, place: Path) -> None:
    total = sum(stat.bytes for stat in found.values())
    _log.info("fetching %s (%s) to %s", show(store.where(place.name), 300), size(total), folder)
    work = folder / f"{place.name}.{os.getpid()}{PARTIAL}"
    with writing(work):
        if list(found) == [place.name]:
            _fetch(store, place.name, found[place.name], work)
        else:
            work.mkdir(exist_ok=True)
            for key, stat in found.items():
                _fetch(store, key, stat, work / key.rpartition("/")[2])
            sync_folder(work)
        work.rename(place)
    sync_folder(folder)


def _fetch(store: Store, key: str, stat: Stat, path: Path) -> None:
    """Write one object to `path`, durably."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for piece in pieces(store, key, stat.bytes):
            write_all(fd, [piece])
        os.fsync(fd)
    finally:
        os.close(fd)
    if store.stat(key).tag != stat.tag:
        raise CacheError(
            f"{show(store.where(key), 300)}: was replaced while it was fetched: "
            "run the same command again"
        )


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a lock file; False where the file system has no locks: several processes may fetch."""
    with writing(path):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
