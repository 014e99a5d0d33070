"""sha256 of weight files, and the digests of the public ones.

Invariant: a file that carries a published name has the published bytes, or loading it is an error.
The hex digits in SAM's file names (`sam_vit_h_4b8939.pth`) begin the file's *MD5*, not its sha256;
the sizes and sha256 of `fetch_list` are checked instead.
"""

import hashlib
import os
from pathlib import Path

from ..errors import MissingError, WeightsError
from ..fetch.catalogue import REMOTES, RemoteFile
from ..rehearsal import dial
from ..text import show
from .remembered import Stamp, alone, recall, remember, settled, stamp

_CHUNK = 1 << 22
_CACHE: dict[tuple[str, Stamp], str] = {}


def published() -> dict[str, RemoteFile]:
    """Public weight files by file name; the names inside model folders are too common to count."""
    files = (file for remote in REMOTES.values() for file in remote.files)
    return {file.path: file for file in files if not file.unpack and "/" not in file.path}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 4 MiB chunks.

    Remembered by (path, size, times) for this process and for later ones (`remembered`): a model's
    digest is asked for by every command and every rank. Raises `MissingError` if there is no such
    file.
    """
    try:
        name, before = os.path.realpath(path), stamp(os.stat(path))
        if (found := _known(name, before)) is not None:
            return found
        with alone():
            if (found := _known(name, before)) is not None:  # another rank has read it meanwhile
                return found
            certain = settled(before)
            found = _CACHE[name, before] = _sha256(path)
            if certain and stamp(os.stat(path)) == before:
                remember(name, before, found)
            return found
    except FileNotFoundError:
        raise MissingError(f"{show(str(path), 200)}: no such file") from None


def _known(name: str, found: Stamp) -> str | None:
    """The digest of an unchanged file, read by this process or an earlier one."""
    if (name, found) not in _CACHE and (digest := recall(name, found)) is not None:
        _CACHE[name, found] = digest
    return _CACHE.get((name, found))


def check_published(path: Path) -> None:
    """`WeightsError` if `path` carries the name of a public file but not its bytes."""
    known = published().get(path.name)
    rehearsed = dial()
    if known is None or (rehearsed is not None and rehearsed.covers(path)):
        return
    size = path.stat().st_size
    if known.exact and size != known.size:
        raise WeightsError(f"{_claim(path)}: {size:,} bytes, published {known.size:,}. {_NEXT}")
    kind, _, wanted = known.digest.partition(":")
    if kind == "sha256" and sha256_file(path) != wanted:
        found = sha256_file(path)
        raise WeightsError(f"{_claim(path)}: sha256 {found}, published {wanted}. {_NEXT}")


_NEXT = "Download it again; if these are your own weights, give the file another name."


def _claim(path: Path) -> str:
    return f"{show(str(path), 200)} has the name of a public file but not its content"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
