"""Weights at an address of object storage: one local copy per machine and version.

A copy is found by the address and the version (ETag) of the object, so a replaced object is fetched
again. Processes of one machine wait for the one that fetches. The digest of a recipe is compared
with the copy by those that load it, as with any other file.
"""

import hashlib
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ..display import show, size
from ..errors import MissingError
from ..io.atomic import PARTIAL, make_folders, sync_folder, writing
from ..io.paths import user_cache
from ..store import Stat, Store, open_store
from ..store.local_copy import alone, fetch_file

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
    with alone(folder / "lock") as sole:
        if sole:
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
            fetch_file(store, place.name, found[place.name], work)
        else:
            work.mkdir(exist_ok=True)
            for key, stat in found.items():
                fetch_file(store, key, stat, work / key.rpartition("/")[2])
            sync_folder(work)
        work.rename(place)
    sync_folder(folder)
