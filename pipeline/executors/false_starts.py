"""False starts of workers: pauses between attempts, and places where none gets ready.

A place is a machine of a cluster, or a worker where the backend knows of no machines. Invariant:
a place where a worker was ready once is tried again for as long as the run lasts.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..display import shorten

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LIMIT = 3  # false starts in a row before the first ready worker of a place


@dataclass(slots=True)
class _Place:
    failures: int = 0  # in a row
    last: float = -math.inf  # when the last of them was counted
    proven: bool = False


class FalseStarts:
    """Counts of false starts by place; `left_out` holds the cause of each place not to be used."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[int, float] = {}
        self._places: dict[str, _Place] = {}
        self.left_out: dict[str, str] = {}
        self.causes: dict[str, str] = {}  # latest, of places in use

    def began(self, worker: int) -> None:
        """Record that a worker was started."""
        self._began[worker] = self._clock()

    def ready(self, place: str) -> None:
        """Record that a worker got ready there."""
        self._places[place] = _Place(proven=True)
        self.causes.pop(place, None)

    def failed(
        self, worker: int, place: str, cause: str, *, final: bool = False, leave_out: bool = True
    ) -> float:
        """Record a false start; returns the seconds to wait before the next attempt.

        Workers of a place that were started before its last failure was counted count together
        with it: eight GPUs behind one broken mount are one false start.

        final      another attempt would end the same: the place is left out at once
        leave_out  False: it is no place that can be
        """
        found, now = self._places.setdefault(place, _Place()), self._clock()
        if self._began.get(worker, now) >= found.last:
            found.failures, found.last = found.failures + 1, now
        if leave_out and (final or (found.failures >= LIMIT and not found.proven)):
            self.left_out[place] = cause
            self.causes.pop(place, None)
        else:
            self.causes[place] = cause
        pause: float = FIRST_PAUSE_S * 2.0 ** min(found.failures - 1, 16)
        return min(LONGEST_PAUSE_S, pause)

    def summary(self) -> str:
        """Every place with its cause in one line, and one cause in full; "" if there is none."""
        lines = [
            *(f"{name} is left out: {first(cause)}" for name, cause in self.left_out.items()),
            *(f"{name}: {first(cause)}" for name, cause in self.causes.items()),
        ]
        whole = [*self.left_out.values(), *self.causes.values()][:1]
        full = [
            f"the first in full: {shorten(text, 1200)}" for text in whole if text != first(text)
        ]
        return "; ".join([*lines, *full])


def in_short(detail: str) -> str:
    r"""A traceback with its last line first, where a reader and a cut message keep it.

    >>> in_short("Traceback:\n  File x\nImportError: no svp")
    'ImportError: no svp\nTraceback:\n  File x'
    """
    rest, _, last = detail.strip().rpartition("\n")
    return f"{last.strip()}\n{rest}" if rest else last


def first(text: str) -> str:
    """The first line."""
    return text.partition("\n")[0]
