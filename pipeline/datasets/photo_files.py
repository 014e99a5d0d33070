"""Photographs as bytes: a file of its own, a member of a tar archive, a row of a parquet file.

Large sets are published as tar files (SA-1B: a thousand, of 11,000 photographs each). A member is
named `<archive>.tar/<member>#<first byte>,<bytes>`, so it is read at its place, by any process,
without looking at the rest of the archive and without unpacking it.
"""

import io
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from ..errors import MissingError
from ..io.paths import check_name, safe_join
from ..store import Stat, check_key, is_url
from .parquet_rows import RowPhoto
from .stored_photos import Section, StoredPhoto, store_of

ARCHIVE = ".tar"
_ARCHIVE = re.compile(r"(.+?\.tar)/(.+)", re.DOTALL)
_ROW = re.compile(r"(.+?\.parquet)/(.+)#(\d{1,7})", re.DOTALL)
_PARQUET = re.compile(r"(.+?\.parquet)/(.+)", re.DOTALL)
_MEMBER = re.compile(r"(.+?\.tar)/(.+)#(\d{1,15}),(\d{1,15})", re.DOTALL)


class SpecialFileError(OSError):
    """A folder, device, pipe or socket where a file is expected: opening it might block."""


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photograph's bytes: all of `path`, or `bytes` of them from `first`.

    member  its name in the archive `path`, "" for a file of its own
    """

    path: Path
    member: str = ""
    first: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """Name of the file without the folders above it."""
        return self.path.name

    @property
    def suffix(self) -> str:
        """Suffix of the photograph's name, lower case."""
        return os.path.splitext(self.member or self.path.name)[1].lower()

    def part(self, member: str, first: int, bytes: int) -> "PhotoFile":
        """A member of this archive."""
        return PhotoFile(self.path, member, first, bytes)

    def examine(self) -> int:
        """`size` of the file as it is now. Raises OSError, SpecialFileError if it is none."""
        status = self.status()
        if not stat.S_ISREG(status.st_mode):
            raise SpecialFileError(f"{self.path}: is not a regular file")
        return self.size(status)

    def status(self) -> os.stat_result:
        """`os.stat` of the file or archive. Raises OSError."""
        return os.stat(self.path)

    def size(self, status: os.stat_result) -> int:
        """Bytes of the photograph; of a member that its archive has no longer in full: fewer."""
        if not self.member:
            return status.st_size
        return max(0, min(self.bytes, status.st_size - self.first))

    def open(self) -> BinaryIO:
        """The photograph's bytes as a file. Raises OSError."""
        file = self.path.open("rb")
        if not self.member:
            return file
        return cast(BinaryIO, io.BufferedReader(_Part(file, self.first, self.bytes), 1 << 16))

    def open_sparse(self, window: int = 0) -> BinaryIO:
        """As `open`, whatever the window."""
        return self.open()


Photo = PhotoFile | StoredPhoto | RowPhoto
"""The bytes of a photograph, wherever it lies."""


class _Part(Section):
    """`size` bytes of a file as a file."""

    def __init__(self, file: io.BufferedReader, first: int, size: int) -> None:
        super().__init__(size)
        self._file, self._first = file, first

    def _read_into(self, view: memoryview, first: int) -> int:
        return os.preadv(self._file.fileno(), [view], self._first + first)

    def close(self) -> None:
        self._file.close()
        super().close()


def photo_file(root: Path, name: str, where: str, bytes: int | None = None) -> Photo:
    """The photograph `name` below `root`, a folder or an address of object storage.

    bytes  its size, which object storage is then not asked for; None: not known

    Raises DataError as `paths.safe_join`.
    """
    if is_url(root):
        return _stored(root, name, where, bytes)
    if not is_member(name) or os.path.isfile(root / name):
        return PhotoFile(safe_join(root, name, where))
    check_name(name, where)
    return _part(name, lambda file: not os.path.isdir(root / file),
                 lambda file: PhotoFile(safe_join(root, file, where)))  # fmt: skip


def _stored(root: Path, name: str, where: str, bytes: int | None) -> StoredPhoto | RowPhoto:
    check_name(name, where)
    store = store_of(root)
    if not is_member(name):
        return StoredPhoto(store, check_key(name, where), bytes=bytes)

    def is_file(key: str) -> bool:
        with suppress(MissingError):
            store.stat(check_key(key, where))
            return True
        return False

    return _part(name, is_file, lambda key: StoredPhoto(store, check_key(key, where)))


_File = TypeVar("_File", PhotoFile, StoredPhoto)


def _part(
    name: str, is_file: Callable[[str], bool], file: Callable[[str], _File]
) -> _File | RowPhoto:
    """The member of a tar file, or the row of a parquet file, that `name` names.

    is_file  is asked only where it is not plain which part of the name is the file
    """
    match = _MEMBER.fullmatch(name) or _ROW.fullmatch(name)
    assert match is not None
    holder, member, first, *size = match.groups()
    above = _ARCHIVE if size else _PARQUET
    while (below := above.match(member)) and not is_file(holder):
        holder, member = f"{holder}/{below[1]}", below[2]  # folders may be called so, too
    if size:
        return file(holder).part(member, int(first), int(size[0]))
    return RowPhoto(file(holder), member, int(first))


def is_member(name: str) -> bool:
    """Whether `name` names a member of a tar file, or a row of a parquet file, by its place.

    >>> is_member("sa_1.tar/sa_7.jpg#1536,3821"), is_member("a.parquet/7.jpg#3")
    (True, True)
    >>> is_member("sa_1.tar/sa_7.jpg")
    False
    """
    return bool(_MEMBER.fullmatch(name) or _ROW.fullmatch(name))


def row_of(name: str) -> tuple[str, int] | None:
    """Parquet file and row that `name` names; None if it names no row.

    >>> row_of("a/b.parquet/7.jpg#3"), row_of("a/b.jpg")
    (('a/b.parquet', 3), None)
    """
    match = _ROW.fullmatch(name)
    return (match[1], int(match[3])) if match else None


def known_size(name: str, stat: Stat | None) -> int | None:
    """Bytes of a photograph in object storage by its name or its object; None: not known."""
    if match := _MEMBER.fullmatch(name):
        return int(match[4])
    return None if stat is None or row_of(name) else stat.bytes


def place_of(name: str) -> str:
    """`name` without the position in its archive, which changes when the archive is packed again.

    >>> place_of("sa_1.tar/sa_7.jpg#1536,3821"), place_of("a#1,2.jpg")
    ('sa_1.tar/sa_7.jpg', 'a#1,2.jpg')
    """
    match = _MEMBER.fullmatch(name) or _ROW.fullmatch(name)
    return f"{match[1]}/{match[2]}" if match else name
