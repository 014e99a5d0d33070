"""Unpack a downloaded zip or tar without trusting it.

Every member is checked before the first byte is written: plain files and folders only, names that
stay inside, no name twice, bounded count and size. Each file appears by rename, so an interrupted
run is repeated by the next one, and files already there with the right size are left alone.
"""

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ..display import counted, show
from ..errors import DataError
from ..io.atomic import make_folders

MAX_FILES = 400_000
MAX_BYTES = 64 << 30
CHUNK = 1 << 20
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression method Python does not know
)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    folder: bool
    plain: bool  # a file or folder: no link, device or encrypted entry


class _Archive(Protocol):
    def members(self) -> Iterator[_Member]: ...

    def open(self, name: str) -> IO[bytes]: ...


def unpack(
    archive: Path, dest: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> list[Path]:
    """Files of the zip or tar `archive`, written under `dest`. DataError if anything is unsafe."""
    with _opened(archive) as source:
        members = _check(archive, source, max_bytes, max_files)
        root = dest.resolve()
        done = []
        for member in members:
            target = root.joinpath(*PurePosixPath(member.name).parts)
            _inside(archive, target, root)
            if member.folder:
                target.mkdir(parents=True, exist_ok=True)
            else:
                _write(archive, source, member, target)
                done.append(target)
        return done


@contextmanager
def _opened(archive: Path) -> Iterator[_Archive]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as handle:
                yield _Zip(handle)
        else:
            with tarfile.open(archive, mode="r:*") as tar:
                yield _Tar(tar)
    except _BROKEN as error:
        raise DataError(
            f"{show(str(archive))}: not a readable zip or tar ({show(str(error))})"
        ) from None


def _check(archive: Path, source: _Archive, max_bytes: int, max_files: int) -> list[_Member]:
    """All members, or a DataError. Stops reading at the first member that breaks a rule."""
    total = 0
    seen: set[str] = set()
    found: list[_Member] = []
    for member in source.members():
        reason = _unsafe_name(member.name)
        total += member.size
        key = member.name.rstrip("/")
        if reason or not member.plain:
            reason = reason or "is a link, device or encrypted entry"
        elif key in seen and not member.folder:
            reason = "appears twice"
        elif len(found) >= max_files:
            reason = f"is one more than the {counted(max_files, 'member')} allowed"
        elif total > max_bytes:
            reason = f"brings the unpacked size to {total} bytes; at most {max_bytes}"
        if reason:
            raise DataError(
                f"{show(str(archive))}: member {show(member.name)} {reason}; nothing written"
            )
        seen.add(key)
        found.append(member)
    _no_file_is_a_folder(archive, found)
    return found


def _no_file_is_a_folder(archive: Path, members: list[_Member]) -> None:
    files = {PurePosixPath(member.name) for member in members if not member.folder}
    for member in members:
        if any(parent in files for parent in PurePosixPath(member.name).parents):
            raise DataError(f"{show(str(archive))}: member {show(member.name)} lies below a file")


def _unsafe_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not name or not parts or len(name) > 4096:
        return "has no usable name"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "has control characters in its name"
    if "\\" in name or ":" in name:
        return "has a backslash or colon in its name"
    if name.startswith("/") or ".." in parts:
        return "would leave the folder"
    return ""


def _inside(archive: Path, target: Path, root: Path) -> None:
    # A link that was already in the destination must not lead the file elsewhere.
    if not target.parent.resolve().is_relative_to(root) or target.is_symlink():
        raise DataError(
            f"{show(str(archive))}: {show(str(target))} is reached through a link; remove it"
        )


def _write(archive: Path, source: _Archive, member: _Member, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    make_folders(target.parent)
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    with source.open(member.name) as reader, partial.open("wb") as writer:
        written = 0
        while chunk := reader.read(CHUNK):
            written += len(chunk)
            if written > member.size:
                break
            writer.write(chunk)
    if written != member.size:
        partial.unlink()
        raise DataError(
            f"{show(str(archive))}: member {show(member.name)} is not as long as it says"
        )
    os.replace(partial, target)


class _Zip:
    def __init__(self, handle: zipfile.ZipFile) -> None:
        self._handle = handle

    def members(self) -> Iterator[_Member]:
        for info in self._handle.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the maker wrote no Unix mode
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1
            yield _Member(info.filename, info.file_size, info.is_dir(), plain)

    def open(self, name: str) -> IO[bytes]:
        return self._handle.open(name)


class _Tar:
    def __init__(self, handle: tarfile.TarFile) -> None:
        self._handle = handle

    def members(self) -> Iterator[_Member]:
        for info in self._handle:
            yield _Member(info.name, info.size, info.isdir(), info.isreg() or info.isdir())

    def open(self, name: str) -> IO[bytes]:
        reader = self._handle.extractfile(name)
        if reader is None:
            raise DataError(f"member {show(name)} holds no bytes")
        return reader
