"""At most 128 open shard files, shared by all threads of a process.

A cache of 1,849 shards and a dozen arrays has more files than a process may open; opening per read
costs 6 %. An evicted file is closed by its last reader.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from .shardfile import ShardFile

LIMIT = 128
Key = tuple[str, int]


class OpenFiles:
    """Least-recently-used map of open shard files; thread-safe, and safe after a fork."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._reset()

    def get(self, key: Key, open_file: Callable[[], ShardFile]) -> ShardFile:
        """The open file `key`; `open_file` runs outside the lock and may raise."""
        found = self._files.get(key)
        if found is not None:
            # No lock: each call is one step for other threads, and a whole row takes 90 us.
            try:
                self._files.move_to_end(key)
            except KeyError:  # evicted just now; it stays open while it is used
                pass
            return found
        if self._pid != os.getpid():
            self._reset()  # the parent's lock may be held for ever in this child
        opened = open_file()
        with self._lock:
            self._files[key] = opened
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return opened

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._files: OrderedDict[Key, ShardFile] = OrderedDict()
