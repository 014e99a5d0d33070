"""Store in a folder of a file system.

`create` writes a temp file in `<top>/.partial`, syncs it and links it to its name (link(2)), which
fails where the name is taken. All temp files lie in that one folder, so finding leftovers takes no
walk. On file systems without hard links see `io.atomic`.

The maker of a file is its extended attribute `user.svp.maker`, where the file system has these: it
is no part of the bytes, and a copy without it is the same file.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import xxhash

from ..display import show
from ..errors import CacheError, MissingError
from ..io.atomic import (
    PARTIAL,
    TempFile,
    make_folder,
    refusal,
    remove_stale_in,
    sync_folder,
    sync_folders,
    write_temp,
    writing,
)
from ..io.binary import read_at
from ..io.paths import refuse_links
from .open_file import MAKER, OpenFile, digest_of, maker_of, tag_of, unreadable
from .protocol import (
    MAX_MAKER,
    Created,
    File,
    OtherBytesError,
    Parts,
    Read,
    Stat,
    bad_size,
    changed,
    check_key,
    cut_short,
    missing,
)

MOST_KNOWN = 10_000
_durable: set[Path] = set()  # folders whose names were synced by this process
# `create` starts again if the file it met is deleted before it is compared, as a repair may do.
ATTEMPTS = 10


@dataclass(frozen=True)
class FolderStore:
    """The files below `root`. Symbolic links below `top` are refused; `top` may be one.

    top  the folder that was opened: `sub` changes `root` alone
    """

    root: Path
    top: Path
    # Folders that are no links: looking at each part of a path costs more than reading a small file.
    _plain: set[Path] = field(default_factory=set, compare=False, repr=False)

    def __str__(self) -> str:
        return self.where()

    def where(self, key: str = "") -> str:
        return f"{self.root}/{key}" if key else str(self.root)

    def sub(self, prefix: str) -> "FolderStore":
        return FolderStore(self.root / check_key(prefix, self.where()), self.top)

    def path(self, key: str) -> Path:
        """Path of a file, which need not exist. Raises CacheError if a link is in the way."""
        path = self.root / check_key(key, self.where())
        if path.parent not in self._plain or path.is_symlink():
            refuse_links(self.top, path)
            if len(self._plain) > MOST_KNOWN:
                self._plain.clear()
            self._plain.add(path.parent)
        return path

    def stat(self, key: str) -> Stat:
        with self._opened(key) as fd:
            found = os.fstat(fd)
            return Stat(found.st_size, tag_of(found), maker_of(fd), found.st_mtime)

    def read(self, key: str, limit: int) -> bytes:
        return self.read_tagged(key, limit)[0]

    def read_tagged(self, key: str, limit: int) -> tuple[bytes, str]:
        with self._opened(key) as fd:
            found = os.fstat(fd)
            if not 1 <= found.st_size <= limit:
                raise bad_size(self.where(key), found.st_size, limit)
            data = bytearray(found.st_size)
            if read_at(fd, [memoryview(data)], 0) < len(data):
                raise bad_size(self.where(key), 0, limit)
        return bytes(data), tag_of(found)

    def tail(self, key: str, n: int) -> tuple[bytes, int]:
        with self._opened(key) as fd:
            size = os.fstat(fd).st_size
            data = bytearray(min(n, size))
            done = read_at(fd, [memoryview(data)], size - len(data)) if data else 0
            return bytes(data[:done]), size

    def open(self, key: str) -> File:
        with self._opened(key) as fd:
            return OpenFile(os.dup(fd), self.path(key))

    def digest(self, key: str) -> tuple[int, str]:
        with self._opened(key) as fd:
            return digest_of(fd)

    def read_many(self, reads: Sequence[Read]) -> None:
        by_key: dict[str, list[Read]] = {}
        for read in reads:
            by_key.setdefault(read.key, []).append(read)
        for key, wanted in by_key.items():
            with self._opened(key) as fd:
                for read in sorted(wanted, key=lambda read: read.offset):
                    done = read_at(fd, read.views, read.offset) if read.bytes else 0
                    if done < read.bytes:
                        raise cut_short(self.where(key), read, done)

    def create(
        self, key: str, parts: Parts, *, who: str = "", label: str = "", shard: int | None = None
    ) -> Created:
        path = self.path(key)
        if path.is_dir():
            raise refusal(IsADirectoryError(errno.EISDIR, ""), path)
        for _ in range(ATTEMPTS):
            there = self._there(key)
            if there is not None:
                return self._compare(key, parts, who, there)
            make_folder(path.parent, self.top)
            temp = self._temp(path, parts, label, shard)
            with suppress(OSError, AttributeError):  # macOS has none, some file systems neither
                os.setxattr(temp.fd, MAKER, who.encode()[:MAX_MAKER])
            made = temp.commit_new()
            self._sync(path)
            if made:
                return Created(True, temp.bytes, temp.xxh3)
        raise CacheError(
            f"{show(str(path), 300)}: is made and deleted by turns: stop one of the runs"
        )

    def link(self, source: Path, key: str) -> bool:
        """Give a file elsewhere the name `key` too, durably.

        False where the file system cannot, or where the name is taken.
        """
        path = self.path(key)
        make_folder(path.parent, self.top)
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError:
            return False
        self._sync(path)
        return True

    def replace(
        self,
        key: str,
        data: bytes,
        if_match: str | None = None,
        *,
        label: str = "",
        shard: int | None = None,
    ) -> str:
        path = self.path(key)
        make_folder(path.parent, self.top)
        with self._locked(path.parent):
            self._check(key, if_match)
            temp = self._temp(path, [data], label, shard)
            fd = os.dup(temp.fd)
            try:
                temp.commit()
                tag = tag_of(os.fstat(fd))
            finally:
                os.close(fd)
        self._sync(path)
        return tag

    def delete(self, key: str, if_match: str | None = None) -> bool:
        path = self.path(key)
        if not os.path.lexists(path) or path.is_dir():
            return False
        with self._locked(path.parent):
            self._check(key, if_match)
            with writing(path):
                path.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((key, found.bytes) for key, found in self.stats(prefix))

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        if prefix:
            self.path(prefix)
        folders = [prefix]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as listed:
                    entries = [entry for entry in listed if not entry.name.endswith(PARTIAL)]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise unreadable(self.root / folder, error) from None
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(key)
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        yield key, Stat(found.st_size, tag_of(found), "", found.st_mtime)

    def sizes_of(self, keys: Sequence[str]) -> dict[str, int]:
        found = {}
        for key in keys:
            try:
                there = os.lstat(self.where(check_key(key, str(self.root))))
            except OSError:
                continue
            if stat.S_ISREG(there.st_mode):
                found[key] = there.st_size
        return found

    def delete_below(self, prefix: str) -> None:
        path = self.path(prefix)
        if path.is_dir():
            with writing(path):
                shutil.rmtree(path)
            sync_folder(path.parent)
            _durable.difference_update({one for one in _durable if one.is_relative_to(path)})

    def require_create(self) -> None:
        key = f"probe-{uuid4().hex}"
        self.create(key, [b"probe"])
        self.delete(key)

    def tidy(self) -> int:
        return remove_stale_in(self._temps)

    @property
    def _temps(self) -> Path:
        return self.top / PARTIAL

    def _temp(self, path: Path, parts: Parts, label: str, shard: int | None) -> TempFile:
        refuse_links(self.top, self._temps)
        for attempt in range(ATTEMPTS):
            try:
                return write_temp(path, parts, label=label, shard=shard, folder=self._temps)
            except CacheError as error:
                # This is the first temp file, or `tidy` of another process removed the empty folder,
                # which it may do at any moment: between two looks at the folder as well.
                gone = isinstance(error.__cause__, FileNotFoundError)
                if not gone or attempt == ATTEMPTS - 1:
                    raise
            with writing(self._temps), suppress(FileExistsError):
                self._temps.mkdir(parents=True)
        raise AssertionError

    def _compare(self, key: str, parts: Parts, who: str, there: tuple[int, str, str]) -> Created:
        digest = xxhash.xxh3_64()
        for part in parts:
            digest.update(part)
        size, theirs, maker = there
        ours = digest.hexdigest()
        if (sum(memoryview(part).nbytes for part in parts), ours) != (size, theirs):
            raise OtherBytesError(self.where(key), ours, theirs, who, maker)
        # The writer that made it may not have synced the folder yet, or never will.
        self._sync(self.path(key))
        return Created(False, size, ours)

    def _there(self, key: str) -> tuple[int, str, str] | None:
        """Size, xxh3_64 and maker of a file that is there, its bytes durable; None if it is not."""
        try:
            with self._opened(key) as fd:
                size, digest = digest_of(fd)
                os.fsync(fd)
                return size, digest, maker_of(fd)
        except MissingError:
            return None

    def _sync(self, path: Path) -> None:
        """Make the names of `path` and of the folders above it, up to `top`, durable."""
        above = [folder for folder in path.parents if folder.is_relative_to(self.top)]
        # A folder whose own name this process has made durable needs no more of those above it.
        known = next((at for at, folder in enumerate(above) if folder in _durable), len(above))
        sync_folders(above[: known + 1])
        if len(_durable) > MOST_KNOWN:
            _durable.clear()
        _durable.update(above)

    def _check(self, key: str, if_match: str | None) -> None:
        if if_match is None:
            return
        try:
            with self._opened(key) as fd:
                if tag_of(os.fstat(fd)) == if_match:
                    return
        except MissingError:
            pass
        raise changed(self.where(key))

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self.path(key)
        try:
            # O_NONBLOCK: a named pipe must be refused, not waited for.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise missing(str(path)) from None
        except OSError as error:
            raise unreadable(path, error) from None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise missing(str(path))
            if not stat.S_ISREG(mode):
                raise CacheError(f"{show(str(path), 300)}: not a regular file")
            yield fd
        except OSError as error:
            if isinstance(error, MissingError):
                raise
            raise unreadable(path, error) from None
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the folder against other replacements; the system lets go if the process dies.

        Where the file system has no locks (NFS on a folder) two replacements at the same moment may
        both find the version they expect: the later one stays.
        """
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise refusal(error, folder) from error
        try:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def open_folder(path: Path) -> FolderStore:
    """The store in `path`, which need not exist yet."""
    return FolderStore(path, path)
