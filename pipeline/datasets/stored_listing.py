"""List the photographs below an address of object storage, with one listing of its prefix.

As for folders (`listing`), with two differences, because each look into an object is a request: what
has a suffix is judged by it, and only what has none is looked at; pages, runs and caches of svp are
not searched for.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..display import show
from ..errors import DataError, MissingError
from ..store import Stat, check_key
from .archives import Archive, read_members
from .images import IMAGE_SUFFIXES, is_readable_kind
from .listing import PICTURES, Listing
from .own_files import predictions
from .parquet_rows import ROWS
from .photo_files import ARCHIVE, Photo, is_member
from .seen_photos import ARCHIVE as MEMBERS
from .seen_photos import SeenPhotos
from .stored_photos import StoredPhoto, in_flight, listing, root_name, store_of

HOLDERS = (ARCHIVE, ROWS)  # suffixes of files that hold photographs


def list_stored(root: Path) -> Listing:
    """The photographs below the address `root`, or in the one tar or parquet file that it names.

    Raises MissingError if there is no such bucket or nothing below the address, DataError if it is
    that of another file, CacheError if the service fails.
    """
    found = Listing(root, stats=listing(root))
    if not found.stats and (stat := _one_object(root)) is not None:
        if root.suffix not in HOLDERS:
            raise DataError(
                f"{show(root_name(root), 300)}: is one object, no tar or parquet file: give the "
                "address above it; annotations are read from this machine, with --images ADDRESS"
            )
        found = Listing(root.parent, stats={root.name: stat})
        root = root.parent
    if not found.stats:
        raise MissingError(
            f"{show(root_name(root), 300)}: no object below this address: is the prefix right?"
        )
    store = store_of(root)
    usual = [key for key in found.stats if _is_plain(key, found)]
    own = _predictions(usual)
    unclear: list[str] = []
    archives: list[str] = []
    for key in usual:
        suffix = Path(key).suffix
        if key in own:
            found.own.append(key)
        elif suffix in HOLDERS:
            archives.append(key)
        elif suffix.lower() in IMAGE_SUFFIXES:
            found.names.append(key)
        elif suffix:
            _pass_over(key, suffix.lower(), found)
        elif found.stats[key].bytes:  # else the mark of an empty folder
            unclear.append(key)

    def is_photo(key: str) -> bool:
        return is_readable_kind(StoredPhoto(store, key, bytes=found.stats[key].bytes))

    for pairs in in_flight(is_photo, unclear):
        for key, readable in pairs:
            if readable:
                found.names.append(key)
            else:
                _pass_over(key, "without suffix", found)
    _take_archives(root, archives, found)
    found.names.sort()
    found.archives = dict(sorted(found.archives.items()))
    return found


def _one_object(root: Path) -> Stat | None:
    """The object that an address names, None if there is none."""
    if len(root.parts) > 2:
        with suppress(MissingError, DataError):
            return store_of(root.parent).stat(root.name)
    return None


def _is_plain(key: str, found: Listing) -> bool:
    """Whether a key can be the name of a photograph; others are counted."""
    if any(part.startswith(".") for part in key.split("/")):
        found.hidden += 1
        return False
    try:
        check_key(key, "listing")
    except DataError:
        found.unsafe += 1
        return False
    found.unsafe += is_member(key)  # it would be read as a part of a tar file
    return not is_member(key)


def _predictions(keys: Iterable[str]) -> set[str]:
    """Pictures that `svp predict` made, in any of the folders."""
    folders: dict[str, list[str]] = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return {
        f"{folder}/{name}" if folder else name
        for folder, names in folders.items()
        for name in predictions(names)
    }


def _pass_over(key: str, suffix: str, found: Listing) -> None:
    found.passed[suffix] += 1
    if suffix in PICTURES:
        found.pictures.append(key)


def _take_archives(root: Path, archives: list[str], found: Listing) -> None:
    """Take the photographs in tar and parquet files, whose indices are read, or known."""
    store, listed = store_of(root), dict(found.stats)

    def read(key: str) -> Archive:
        return read_members(StoredPhoto(store, key, bytes=listed[key].bytes), _is_photo)

    results = SeenPhotos(root).through(
        MEMBERS, sorted(archives), listed, read, asdict, lambda value: Archive(**value)
    )
    for key, inside in results:
        _take_members(found, key, inside, listed)


def _take_members(found: Listing, key: str, inside: Archive, listed: Mapping[str, Stat]) -> None:
    """Add the members of the tar file `key`; each is of the version that its archive has."""
    found.unsafe += inside.unsafe
    if inside.fault:
        found.damaged.append((key, inside.fault, len(inside.names)))
    if not inside.names:
        if not inside.fault:
            _pass_over(key, Path(key).suffix, found)
        return
    found.others += inside.other
    found.archives[key] = len(inside.names)
    folder = key.rpartition("/")[0]
    for member in inside.names:
        name = f"{folder}/{member}" if folder else member
        found.names.append(name)
        found.stats[name] = listed[key]


def _is_photo(photo: Photo) -> bool:
    """By the suffix; by its first bytes only without one."""
    return photo.suffix in IMAGE_SUFFIXES if photo.suffix else is_readable_kind(photo)
