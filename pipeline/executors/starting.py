"""Starting Ray or Dask: a process that dies while they come up, or a crowded machine, is no end."""

from collections.abc import Callable
from typing import TypeVar

from ..errors import CacheError
from ..text import shorten

T = TypeVar("T")
TRIES = 3


def started(what: str, start: Callable[[], T], clean: Callable[[], None] = lambda: None) -> T:
    """What `start` returns, tried up to three times; `clean` takes away what a failure left.

    Raises CacheError. Both packages raise bare Exception or RuntimeError for a slow start.
    """
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:
            clean()
            if not left:
                raise CacheError(
                    f"{what} did not start, tried {TRIES} times: {shorten(str(error), 500)}. Free the "
                    "machine or use --executor local, and give the same command again"
                ) from error
    raise AssertionError
