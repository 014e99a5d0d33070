"""Collect the problems of a file (up to 100) and report them together.

One bad record costs itself: it is left out, named and counted (`settle`). More than half of a file
is no accident of single records but another kind of file, and is refused; `--max-failures` says how
many are accepted instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from ..display import counted
from ..errors import DataError

LIMIT = 100
KEPT = 10_000  # problems of a file kept to be sorted; beyond, only the count grows
NAMED = 5  # faults that a notice names; the rest it counts


@dataclass(frozen=True, slots=True)
class Faults:
    """Records left out because something is wrong with them.

    found    how many problems
    lines    the first 100, each naming file and record
    records  how many records there were with them
    refused  why a run that was not told how many it may leave out refuses the file; "": it does not
    """

    found: int = 0
    lines: tuple[str, ...] = ()
    records: int = field(default=0, compare=False)
    refused: str = field(default="", compare=False)

    def notices(self) -> list[str]:
        """Lines for the user: the count, the first few by name."""
        if not self.found:
            return []
        rest = self.found - len(self.lines[:NAMED])
        more = [f"... and {rest} more: `svp data check` lists them"] if rest else []
        head = (
            f"{counted(self.found, 'bad record', 'are')} left out (--max-failures N refuses more "
            "than N):"
        )
        return [head, *(f"  {line}" for line in self.lines[:NAMED]), *more]


def merged(faults: Iterable[Faults]) -> Faults:
    """The faults of several files."""
    every = list(faults)
    lines = [line for one in every for line in one.lines]
    found, records = sum(one.found for one in every), sum(one.records for one in every)
    refused = next((one.refused for one in every if one.refused), "")
    return Faults(found, tuple(lines[:LIMIT]), records, refused)


class Problems:
    """Problems of one file, each one line that names its record; `found` counts all of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found = 0
        self._kept: list[tuple[int, str]] = []

    @property
    def lines(self) -> list[str]:
        """The first 100 in the order of the file, or as they were found."""
        return [line for _, line in sorted(self._kept, key=lambda item: item[0])[:LIMIT]]

    def add(self, line: object, order: int = 0) -> None:
        """Note one problem. `order` is its place in the file, if that is not the order of adding."""
        self.found += 1
        if len(self._kept) < KEPT:
            self._kept.append((order, str(line)))

    def raise_if_any(self) -> None:
        """One DataError that lists them; its `problems` are the single lines, each with the file."""
        if self.found:
            self.refuse("")

    def settle(self, records: int, allowed: int | None, why: str = "") -> Faults:
        """Accept the problems of a file of `records` records: what is left out of it.

        allowed  problems that are accepted; None: as many as half of the records, and `why` is ""
        why      what else is wrong with the file as a whole

        Raises DataError if there are more.
        """
        if 2 * self.found > records:
            why = (
                why or f" in {counted(records, 'record')}, more than half: is this the right file?"
            )
        if allowed is None and why:
            self.refuse(why)
        faults = replace(self.faults(records), refused=self._head(why) if why else "")
        if allowed is not None and self.found > allowed:
            self.refuse(f", more than --max-failures {allowed}" if allowed else "")
        return faults

    def faults(self, records: int = 0) -> Faults:
        """The problems so far, each line naming the file too."""
        return Faults(self.found, tuple(f"{self.where}: {line}" for line in self.lines), records)

    def refuse(self, why: str) -> NoReturn:
        """The DataError of `raise_if_any`, with a reason after the count."""
        lines = self.lines
        error = DataError(f"{self._head(why)}: {'; '.join(lines)}")
        error.problems = tuple(f"{self.where}: {line}" for line in lines)
        error.found = self.found
        raise error

    def _head(self, why: str) -> str:
        more = f" (the first {LIMIT} shown)" if self.found > LIMIT else ""
        return f"{self.where}: {counted(self.found, 'problem')}{more}{why}"
