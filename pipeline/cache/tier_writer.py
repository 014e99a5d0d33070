"""Thread that writes rows to a row tier, from copies of bounded size.

What the disk is too slow for, or what does not fit, is left out and kept at another visit. An error
of the disk stops the writing for a minute.
"""

import atexit
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from ..display import show, size
from ..io.binary import crc32c, empty
from .tier_space import USED, Mine, TierSpace, spanned

WAITING = 256 << 20  # bytes that wait to be written; more are not kept
RETRY, FULL = 60.0, 600.0  # seconds until a disk that refused, a full tier, is tried again
SETTLE = 10.0  # seconds that the end of the process waits for what is not written yet
CRC = 4
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
Tell = Callable[[str, str, int], None]


@dataclass(frozen=True)
class Kept:
    """Bytes to keep: `data` at `offset` of a file of `size` bytes that ends in `end`.

    whole  the data are all of the file before its end; else a row with its crc32c, or nothing
    """

    path: Path
    size: int
    end: bytes
    offset: int
    data: NDArray[np.uint8]
    whole: bool


class TierWriter:
    """Writes below `space.root`. `tell` is given a kind, a line and a level of the log."""

    def __init__(self, space: TierSpace, mine: Mine, tell: Tell) -> None:
        self._space, self._mine, self._tell = space, mine, tell
        self._reset()

    def _reset(self) -> None:
        self._pid, self._changed = os.getpid(), Condition()
        self._queue: deque[Kept] = deque()
        self._free: dict[int, list[NDArray[np.uint8]]] = {}  # buffers: fresh memory costs more
        self._waiting, self._paused = 0, 0.0
        self._started: bool = False
        self._opened: bool = False

    def put(
        self, path: Path, length: int, end: bytes, offset: int, views: Sequence[memoryview],
        *, whole: bool = False,
    ) -> None:  # fmt: skip
        """Have `views` written at `offset` of a file of `length` bytes that ends in `end`.

        The bytes are copied: the views are the caller's again on return.
        """
        count = sum(map(len, views))
        if self._pid != os.getpid():
            self._reset()  # a thread does not survive a fork
        with self._changed:
            if time.monotonic() < self._paused or self._waiting + count > WAITING:
                return
            self._waiting += count
            free = self._free.get(count)
            data = free.pop() if free else None
        if data is None:
            data = empty((count,), np.uint8)
        at = 0
        for view in views:  # numpy copies without the interpreter lock
            data[at : at + len(view)] = np.frombuffer(view, np.uint8)
            at += len(view)
        with self._changed:
            self._queue.append(Kept(path, length, end, offset, data, whole))
            if not self._started:
                self._started = True
                Thread(target=self._run, name="svp-tier", daemon=True).start()
                atexit.register(self.settle, SETTLE)
            self._changed.notify_all()

    def settle(self, seconds: float | None = None) -> None:
        """Wait until everything put so far is written, `seconds` at most."""
        if self._pid == os.getpid():
            with self._changed:
                self._changed.wait_for(lambda: not (self._waiting or self._queue), seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                item = self._queue[0]
            try:
                if time.monotonic() >= self._paused:
                    self._write(item)
            except OSError as error:
                self._paused = time.monotonic() + RETRY
                if error.errno in NO_SPACE:  # the disk holds less than the limit
                    with suppress(OSError):
                        self._space.evict(self._space.limit - self._space.used(), self._mine)
                where = show(str(self._space.root.parent), 300)
                self._tell(
                    f"write {error.errno}",
                    f"tier {where}: {error.strerror}: rows that are not in it are read from object "
                    "storage; it is tried again every minute",
                    logging.WARNING,
                )
            with self._changed:
                self._queue.popleft()
                self._waiting -= len(item.data)
                if self._waiting < WAITING // 2:
                    self._free.setdefault(len(item.data), []).append(item.data)
                else:
                    self._free.clear()
                self._changed.notify_all()

    def _write(self, item: Kept) -> None:
        data = item.data.data
        row = len(data) and not item.whole
        crc = bytes(data[-CRC:])
        if row and crc32c(data[:-CRC]) != int.from_bytes(crc, "little"):
            return  # the reader says so
        if not self._opened:
            self._space.open()
            self._opened = True
        fd = self._file(item.path)
        try:
            first = item.size - len(item.end)
            found = os.fstat(fd).st_size == item.size
            ended = found and os.pread(fd, len(item.end), first) == item.end
            there = os.pread(fd, CRC, item.offset + len(data) - CRC) == crc if row else ended
            count = 0 if there else spanned(item.offset, len(data))
            if not ended:
                count += spanned(first, len(item.end))
            if not count or not self._take(count):
                return
            if not found:
                os.ftruncate(fd, item.size)
            if not there:
                _write_at(fd, data, item.offset)
            if not ended:
                _write_at(fd, memoryview(item.end), first)
        finally:
            os.close(fd)

    def _take(self, count: int) -> bool:
        """Count bytes to be written; False if they do not fit, also after an eviction."""
        try:
            if self._space.take(count):
                return True
            if self._space.evict(count, self._mine) and self._space.take(count):
                return True
        except FileNotFoundError:  # the folder was deleted, and may be
            self._space.open()
            return self._space.take(count)
        self._paused = time.monotonic() + FULL
        limit, where = size(self._space.limit), show(str(self._space.root.parent), 300)
        self._tell(
            "full",
            f"tier {where}: {limit} are full: it keeps what it holds, other rows are read from "
            "object storage",
            logging.INFO,
        )
        return False

    def _file(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent.parent / USED).touch()
            return os.open(path, flags, 0o644)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
