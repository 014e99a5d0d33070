"""One process per cell: two would train it twice, and the slower one's results be refused."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...pipeline.errors import ConfigError
from ...pipeline.store.atomic import make_folders, writing
from ...pipeline.text import show

LOCK = "lock"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, while open; the lock ends with its process, however it ends.

    Raises ConfigError if another process holds it.
    """
    make_folders(folder)
    with writing(folder / LOCK):
        file = (folder / LOCK).open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{show(str(folder), 300)}: another process is at work on it: wait for it, or give "
                "this one other rows (--row)"
            ) from None
        yield
