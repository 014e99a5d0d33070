"""Disk space of a row tier, shared by all processes of a machine, and its eviction.

A counter file holds at least the bytes that the files take: a writer adds before it writes, an
eviction subtracts what it has deleted. A killed process may leave it too high, never too low; the
next process that finds itself alone counts again. Its locks are `flock`s, which the kernel
releases with the process.

Training reads every row once per epoch. Then the least recently used row is the next to be read,
and replacing rows keeps fewer of those that are read again than keeping what is there: with half
of a cache 15 % by least recent use, 20 % at random, 50 % without replacement. So files of caches
that are being read are kept, and the others make place, the longest unused first.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

USED = "used"  # file of a layer whose time says when a process last read the layer
IN_USE = 600.0  # seconds; a layer that was not read for so long is read by nobody
UNREAD = 7 * 24 * 3600.0  # seconds; a file of a layer in use that no epoch reads
SLACK = 20  # an eviction frees a 20th of the limit beyond what is asked: looking at all files costs
BLOCK = 4096

Mine = Callable[[str, str], bool]


class TierSpace:
    """The bytes below `root`, at most `limit`. Every method raises OSError where the disk refuses.

    For one thread of a process.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self._counter = root / "bytes"
        self._present = -1  # descriptor of the file that each process holds a shared lock of

    def open(self) -> None:
        """Make the folder, and count its files unless another process has."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.close()
        self._present = os.open(self.root / "present", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        alone = _lock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not alone:
            _lock(self._present, fcntl.LOCK_SH)  # waits for one that is counting
        if alone or not self._counter.exists():
            used = sum(size for _, _, size, _ in self._files())
            with self._locked(os.O_CREAT) as fd:
                _write(fd, used)
        if alone:
            _lock(self._present, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let others find themselves alone."""
        fd, self._present = self._present, -1
        if fd >= 0:
            os.close(fd)

    def used(self) -> int:
        """Bytes that the files take at most. Raises FileNotFoundError if the folder was deleted."""
        with self._locked() as fd:
            return _read(fd)

    def take(self, count: int) -> bool:
        """Count bytes that are about to be written; False if they do not fit.

        Raises FileNotFoundError if the folder was deleted.
        """
        with self._locked() as fd:
            used = _read(fd)
            if used + count > self.limit:
                return False
            _write(fd, used + count)
            return True

    def evict(self, count: int, mine: Mine) -> bool:
        """Delete files until `count` bytes more fit; whether they do.

        mine  whether a file of a layer (by their names) is of a cache that this process reads, or
              of a layer that it does not know
        """
        now, found = time.time(), []
        in_use = {layer.name: now - _time(layer / USED) < IN_USE for layer in self._layers()}
        for layer, path, size, when in self._files():
            kept = in_use.get(layer, False) and mine(layer, path.name)
            if not kept or now - when > UNREAD:
                found.append((when, path, size))
        wanted = self.limit - count - self.limit // SLACK
        used = self.used()
        for _, path, size in sorted(found):
            if used <= wanted:
                break
            try:
                path.unlink()
            except FileNotFoundError:  # another process has evicted it, and counted that
                continue
            with self._locked() as fd:
                used = max(0, _read(fd) - size)
                _write(fd, used)
        for layer in in_use:
            self._drop_if_empty(self.root / layer)
        return used + count <= self.limit

    def _drop_if_empty(self, layer: Path) -> None:
        with suppress(OSError):  # it holds files, or gets one just now
            for folder in layer.iterdir():
                if folder.is_dir():
                    folder.rmdir()
            (layer / USED).unlink(missing_ok=True)
            layer.rmdir()

    def _layers(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            yield from (path for path in self.root.iterdir() if path.is_dir())

    def _files(self) -> Iterator[tuple[str, Path, int, float]]:
        """Layer, path, bytes on the disk and time of last use of each file."""
        for layer in self._layers():
            with suppress(FileNotFoundError):
                for array in [path for path in layer.iterdir() if path.is_dir()]:
                    with os.scandir(array) as entries:
                        for entry in entries:
                            with suppress(FileNotFoundError):
                                found = entry.stat(follow_symlinks=False)
                                size = found.st_blocks * 512
                                yield layer.name, Path(entry.path), size, found.st_mtime

    @contextmanager
    def _locked(self, flags: int = 0) -> Iterator[int]:
        """The counter's descriptor, while no other process has it."""
        fd = os.open(self._counter, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
        try:
            _lock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def spanned(offset: int, count: int) -> int:
    """Bytes of the blocks that a range of a file lies in.

    >>> spanned(4095, 2), spanned(4096, 4096), spanned(5, 0)
    (8192, 4096, 0)
    """
    return (-(-(offset + count) // BLOCK) - offset // BLOCK) * BLOCK if count else 0


def _lock(fd: int, how: int) -> bool:
    """Whether the lock is held now; also where the file system has no locks, False."""
    try:
        fcntl.flock(fd, how)
    except OSError:
        return False
    return True


def _read(fd: int) -> int:
    return int.from_bytes(os.pread(fd, 8, 0), "little")


def _write(fd: int, used: int) -> None:
    os.pwrite(fd, used.to_bytes(8, "little"), 0)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
