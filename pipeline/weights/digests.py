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
from ..text import show

_CHUNK = 1 << 22
_CACHE: dict[tuple[str, int, int], str] = {}


def published() -> dict[str, RemoteFile]:
    """Public weight files by file name; the names inside model folders are too common to count."""
    files = (file for remote in REMOTES.values() for file in remote.files)
    return {file.path: file for file in files if not file.unpack and "/" not in file.path}


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 4 MiB chunks.

    Remembered for this process by (path, size, modification time): a model's digest is asked for
    several times in one run. Raises `MissingError` if there is no such file.
    """
    try:
        status = os.stat(path)
        key = (os.path.realpath(path), status.st_size, status.st_mtime_ns)
        if key not in _CACHE:
            _CACHE[key] = _sha256(path)
    except FileNotFoundError:
        raise MissingError(f"{show(str(path), 200)}: no such file") from None
    return _CACHE[key]


def check_published(path: Path) -> None:
    """`WeightsError` if `path` carries the name of a public file but not its bytes."""
    known = published().get(path.name)
    if known is None:
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
