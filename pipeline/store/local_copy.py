"""Files of a store as files of this machine, for code that maps or seeks in them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..display import show
from ..errors import CacheError
from ..io.atomic import writing
from ..io.binary import write_all
from .protocol import Stat, Store, pieces


def fetch_file(store: Store, key: str, stat: Stat, path: Path) -> None:
    """Write the version `stat` of a file to `path`, durably.

    Raises MissingError, CacheError if it was replaced meanwhile, OSError of the disk.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for piece in pieces(store, key, stat.bytes):
            write_all(fd, [piece])
        os.fsync(fd)
    finally:
        os.close(fd)
    if store.stat(key).tag != stat.tag:
        raise CacheError(
            f"{show(store.where(key), 300)}: was replaced while it was fetched: "
            "run the same command again"
        )


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Hold a lock file; False where the file system has no locks: several processes may fetch."""
    with writing(path):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
