"""sha256 of weight files: published digests, and a local cache of computed ones.

Invariant: a file that carries a published name has the published bytes, or loading it is an error.
The hex digits in SAM's file names (`sam_vit_h_4b8939.pth`) begin the file's *MD5*, not its sha256;
the sizes and sha256 of the catalogue are checked instead.

Digests are remembered between processes, so that gigabytes are not read again, in one small file,
`svp/digests.jsonl` in the user's cache folder: a line per file hashed, the last line about a path
wins. A line is one append, so writers at the same time do not disturb each other, and a damaged
line is skipped. A digest counts only for exactly the size, modification time and change time of
its file, and never for a file that was written within the last two seconds: file systems with coarse
clocks would give its next content the same times. `SVP_REHASH=1` trusts none of them.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..display import show
from ..errors import MissingError, WeightsError
from ..fetch.catalogue import REMOTES
from ..fetch.published import RemoteFile
from ..io.paths import user_cache
from .rehearsal import rehearsal_settings

SETTLED_NS = 2_000_000_000
MAX_BYTES = 1 << 20  # some thousand lines; then only the last line about each path is kept
_HEX = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int]  # size, mtime_ns, ctime_ns


def memory_file() -> Path:
    """Path of the digest cache: in $XDG_CACHE_HOME/svp, by default ~/.cache/svp.

    A user without a home gets a path that can be neither read nor written: nothing is remembered.
    """
    return (user_cache() or Path(os.devnull)) / "svp" / "digests.jsonl"


def distrusted() -> bool:
    """Whether every file must be hashed again (`SVP_REHASH`)."""
    return os.environ.get("SVP_REHASH", "") not in ("", "0")


def stamp(status: os.stat_result) -> Stamp:
    """File attributes that a remembered digest is valid for."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def settled(found: Stamp) -> bool:
    """Whether a file was last written long enough ago for its times to name its content."""
    return time.time_ns() - found[1] > SETTLED_NS


def recall(path: str, found: Stamp) -> str | None:
    """The digest remembered for the absolute `path` as it is now, None if there is none."""
    if distrusted() or not settled(found):
        return None
    known = _read().get(path)
    return known[1] if known is not None and known[0] == found else None


def remember(path: str, found: Stamp, digest: str) -> None:
    """Note a digest for later processes; where nothing can be written, nothing is remembered."""
    place = memory_file()
    line = json.dumps([path, *found, digest]) + "\n"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_file() and place.stat().st_size > MAX_BYTES:
            _shorten(place)
        with place.open("ab", buffering=0) as file:
            file.write(line.encode())
    except (OSError, ValueError):
        return


@contextmanager
def alone() -> Iterator[None]:
    """Hashing by one process at a time: the ranks of a run then read each file once, not each."""
    try:
        memory_file().parent.mkdir(parents=True, exist_ok=True)
        file = memory_file().with_suffix(".lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # no folder to write in, or a file system without locks
        yield
        return
    with file:
        yield


def _read() -> dict[str, tuple[Stamp, str]]:
    try:
        lines = memory_file().read_bytes().splitlines()
    except OSError:
        return {}
    return dict(known for line in lines if (known := _parse(line)) is not None)


def _parse(line: bytes) -> tuple[str, tuple[Stamp, str]] | None:
    try:
        path, size, mtime, ctime, digest = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    whole = all(type(number) is int for number in (size, mtime, ctime))
    if not (isinstance(path, str) and whole and isinstance(digest, str)):
        return None
    return (path, ((size, mtime, ctime), digest)) if _HEX.fullmatch(digest) else None


def _shorten(place: Path) -> None:
    """Keep the last line about each file that is still there; another writer's line may be lost,
    which costs one reading."""
    kept = {path: known for path, known in _read().items() if os.path.exists(path)}
    text = "".join(json.dumps([p, *s, d]) + "\n" for p, (s, d) in kept.items())
    part = place.with_name(f"{place.name}.{os.getpid()}.partial")
    part.write_text(text if len(text) <= MAX_BYTES else "")
    os.replace(part, place)


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
            if (found := _known(name, before)) is not None:  # another rank has read it by now
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
    rehearsed = rehearsal_settings()
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
    return f"{show(str(path), 200)} has the name of a published file but not its content"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
