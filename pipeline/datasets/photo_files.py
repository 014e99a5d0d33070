"""Photographs as bytes: a file of its own, or a member of a tar archive.

Large sets are published as tar files (SA-1B: a thousand, of 11,000 photographs each). A member is
named `<archive>.tar/<member>#<first byte>,<bytes>`, so it is read at its place, by any process,
without looking at the rest of the archive and without unpacking it.
"""

import io
import os
import re
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ..display import show
from ..errors import DataError
from ..io.paths import check_name, safe_join

ARCHIVE = ".tar"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_ARCHIVE = re.compile(r"(.+?\.tar)/(.+)", re.DOTALL)
_MEMBER = re.compile(r"(.+?\.tar)/(.+)#(\d{1,15}),(\d{1,15})", re.DOTALL)


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
    def suffix(self) -> str:
        """Suffix of the photograph's name, lower case."""
        return os.path.splitext(self.member or self.path.name)[1].lower()

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


class _Part(io.RawIOBase):
    """`size` bytes of a file as a file."""

    def __init__(self, file: io.BufferedReader, first: int, size: int) -> None:
        super().__init__()
        self._file, self._first, self._size, self._at = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("negative seek position")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        done = os.preadv(self._file.fileno(), [view], self._first + self._at) if view else 0
        self._at += done
        return done

    def close(self) -> None:
        self._file.close()
        super().close()


def photo_file(root: Path, name: str, where: str) -> PhotoFile:
    """The bytes of the photograph `name` below `root`. Raises DataError as `paths.safe_join`."""
    match = _MEMBER.fullmatch(name)
    if match is None or os.path.isfile(root / name):
        return PhotoFile(safe_join(root, name, where))
    check_name(name, where)
    archive, member, first, size = match.groups()
    while os.path.isdir(root / archive) and (below := _ARCHIVE.match(member)):
        archive, member = f"{archive}/{below[1]}", below[2]  # folders may be called so, too
    return PhotoFile(safe_join(root, archive, where), member, int(first), int(size))


def place_of(name: str) -> str:
    """`name` without the position in its archive, which changes when the archive is packed again.

    >>> place_of("sa_1.tar/sa_7.jpg#1536,3821"), place_of("a#1,2.jpg")
    ('sa_1.tar/sa_7.jpg', 'a#1,2.jpg')
    """
    match = _MEMBER.fullmatch(name)
    return f"{match[1]}/{match[2]}" if match else name


@dataclass
class Archive:
    """Members of a tar file: names as `photo_file` takes them below the archive's folder.

    other   members that are no photographs, as SA-1B's annotations, or hidden
    unsafe  members whose names are refused
    fault   what is wrong with the archive, "" if it could be read to its end
    """

    names: list[str]
    other: int = 0
    unsafe: int = 0
    fault: str = ""


def read_archive(path: Path, is_photo: Callable[[PhotoFile], bool]) -> Archive:
    """The photographs in a tar file, by reading its headers; of equal names the last, as tar does.

    A link to a photograph in the same archive is one, too: tar stores a file of two names once.
    Never raises for what is in the file: members before a damaged place are listed.
    """
    found = Archive([])
    photos: dict[str, str] = {}  # name -> position
    links: dict[str, str] = {}
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Archive([], fault="not a regular file")
        size = os.path.getsize(path)
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all headers
                if member.size < 0:  # the next header would be this one again, without end
                    raise tarfile.ReadError(f"damaged at byte {member.offset}")
                name = member.name.removeprefix("./")
                position = f"#{member.offset_data},{member.size}"
                if member.isdir():
                    continue
                if not _usable(name) or not _usable(f"{path.name}/{name}{position}"):
                    found.unsafe += 1
                    continue
                photos.pop(name, None)
                links.pop(name, None)
                photo = PhotoFile(path, name, member.offset_data, member.size)
                if any(part.startswith(".") and part != "." for part in name.split("/")):
                    found.other += 1
                elif member.islnk():
                    links[name] = member.linkname.removeprefix("./")
                elif member.issym():
                    target = os.path.join(os.path.dirname(name), member.linkname)
                    links[name] = os.path.normpath(target)
                elif not member.isreg() or member.issparse() or not is_photo(photo):
                    found.other += 1
                elif member.offset_data + member.size > size:
                    found.fault = f"cut short in {show(name, 80)}"
                else:
                    photos[name] = position
            found.fault = found.fault or _end_fault(path, archive.offset)
    except tarfile.ReadError as error:
        found.fault = found.fault or _compressed(path) or show(str(error), 80)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        found.fault = found.fault or show(str(error) or type(error).__name__, 80)
    linked = {name: photos[target] for name, target in links.items() if target in photos}
    found.other += len(links) - len(linked)
    found.names = [f"{path.name}/{name}{position}" for name, position in (photos | linked).items()]
    return found


def _usable(name: str) -> bool:
    try:
        check_name(name, "archive")
    except DataError:
        return False
    return True


def _compressed(path: Path) -> str:
    """Fault of an archive that is compressed as a whole: no member has a place in the file."""
    with path.open("rb") as file:
        head = file.read(6)
    packed = any(head.startswith(magic) for magic in _COMPRESSED)
    return "compressed: decompress it, so that members can be read in place" if packed else ""


def _end_fault(path: Path, offset: int) -> str:
    """Fault at the end of an archive: `tarfile` takes a damaged header for the end, too."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "ends without an end mark: it may be cut short"
    return f"damaged at byte {offset}" if block.strip(b"\0") else ""
