"""Collecting what is wrong with a file, so that a user sees all of it at once (up to 100).

One bad record costs itself: it is left out, named and counted (`settle`). More than half of a file
is no accident of single records but another kind of file, and is refused; `--max-failures` says how
many are accepted instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from ..errors import DataError

LIMIT = 100
NAMED = 5  # faults that a notice names; the rest it counts


@dataclass(frozen=True, slots=True)
class Faults:
    """Records left out because something is wrong with them.

    found  how many problems
    lines  the first 100, each naming file and record
    """

    found: int = 0
    lines: tuple[str, ...] = ()

    def notices(self) -> list[str]:
        """Lines for the user: the count, the first few by name."""
        if not self.found:
            return []
        rest = self.found - len(self.lines[:NAMED])
        more = [f"... and {rest} more: `svp data check` lists them"] if rest else []
        head = f"{self.found} bad records are left out (--max-failures N refuses more than N):"
        return [head, *(f"  {line}" for line in self.lines[:NAMED]), *more]


def merged(faults: Iterable[Faults]) -> Faults:
    """The faults of several files."""
    every = list(faults)
    lines = [line for one in every for line in one.lines]
    return Faults(sum(one.found for one in every), tuple(lines[:LIMIT]))


class Problems:
    """Problems of one file, each one line that names its record; `found` counts all of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: list[str] = []
        self.found = 0

    def add(self, line: object) -> None:
        """Note one problem; beyond the limit only the count grows."""
        self.found += 1
        if len(self.lines) < LIMIT:
            self.lines.append(str(line))

    def raise_if_any(self) -> None:
        """One DataError that lists them; its `problems` are the single lines."""
        if self.found:
            self._fail("")

    def settle(self, records: int, allowed: int | None) -> Faults:
        """What is left out of a file of so many records.

        allowed  problems that are accepted; None: as many as half of the records

        Raises DataError if there are more.
        """
        if allowed is None and 2 * self.found > records:
            self._fail(f" in {records} records, more than half: is this the right file?")
        if allowed is not None and self.found > allowed:
            self._fail(f", more than --max-failures {allowed}" if allowed else "")
        return Faults(self.found, tuple(f"{self.where}: {line}" for line in self.lines))

    def _fail(self, why: str) -> NoReturn:
        more = f" (the first {LIMIT} shown)" if self.found > LIMIT else ""
        count = "1 problem" if self.found == 1 else f"{self.found} problems{more}"
        error = DataError(f"{self.where}: {count}{why}: {'; '.join(self.lines)}")
        error.problems = tuple(self.lines)
        raise error
